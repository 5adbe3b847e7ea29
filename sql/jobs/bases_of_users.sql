-- bases_of_users: the newest stored part of the personas of some users
-- Grain:  one row per user_id
-- Reads:  persona_vectors
-- Params: $users (TEXT[]), $first_ds (DATE), $last_ds (DATE): the nights, $encoder_sha256 (TEXT)
-- Holds:  item_count > 0
with newest as (
    select persona_vectors.*
    from persona_vectors
    where
        persona_vectors.encoder_sha256 = $encoder_sha256
        and persona_vectors.ds between $first_ds and $last_ds
        and persona_vectors.user_id in (select unnest($users::text[]))
    qualify row_number() over (partition by persona_vectors.user_id order by persona_vectors.ds desc) = 1
)

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
from newest
where item_count > 0
order by user_id
