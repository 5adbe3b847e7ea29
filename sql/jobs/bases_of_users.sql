-- bases_of_users: the newest stored part of the personas of the users asked for
-- Grain:  one row per user_id
-- Params: $first_ds (DATE), $last_ds (DATE): the nights, $encoder_sha256 (TEXT)
-- Holds:  item_count > 0
select
    user_id,
    vectors,
    vector_scales,
    counts,
    items,
    label_counts,
    newest_labels,
    last_item,
    items_sha256,
    item_count,
    first_posted_at,
    last_posted_at
from asked_bases
where encoder_sha256 = $encoder_sha256 and ds between $first_ds and $last_ds
qualify row_number() over (partition by user_id order by ds desc) = 1 and item_count > 0
order by user_id
