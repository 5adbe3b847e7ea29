-- persona_drift: how far a persona that changed in a night moved since the night before, the farthest first.
-- Grain:  one row per user_id
-- Reads:  encode_nights, changed_between
-- Params: $ds (DATE, default null: the newest night), $limit (INT, default 100), $first_user (TEXT, default null),
--         $last_user (TEXT, default null: all users, a range of them at a time)
-- Holds:  similarity between -1.00001 and 1.00001; previous_ds < ds; new_item_count = item_count - previous_item_count
with compared as (
    select
        ds,
        lag(ds) over (order by ds) as previous_ds
    from encode_nights
    qualify previous_ds is not null and ($ds is null or ds = $ds)
    order by ds desc
    limit 1
)

select
    newer.user_id,
    newer.ds,
    older.ds as previous_ds,
    list_cosine_similarity(newer.persona, older.persona) as similarity,
    newer.item_count,
    older.item_count as previous_item_count,
    newer.item_count - older.item_count as new_item_count
from
    changed_between(
        (select ds from compared), (select ds from compared), null, $first_user, $last_user
    ) as newer
inner join
    changed_between(
        (select previous_ds from compared), (select ds from compared), null, $first_user, $last_user
    ) as older
    on
        newer.user_id = older.user_id
        -- vectors of two encoders have no angle between them
        and newer.encoder_sha256 = older.encoder_sha256
order by similarity, newer.user_id
limit $limit
