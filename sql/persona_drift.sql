-- persona_drift: how far a user's persona moved between a night and the one before, the farthest first.
-- Grain:  one row per user_id
-- Reads:  persona_vectors
-- Params: $ds (DATE, default null: the newest night), $limit (INT, default 100)
-- Holds:  similarity between -1.00001 and 1.00001; previous_ds < ds; new_item_count = item_count - previous_item_count
with nights as (
    select
        ds,
        lag(ds) over (order by ds) as previous_ds
    from persona_vectors
    group by ds
),

night as (
    select
        ds,
        previous_ds
    from nights
    where ds = coalesce($ds, (select max(persona_vectors.ds) from persona_vectors))
)

select
    newer.user_id,
    newer.ds,
    older.ds as previous_ds,
    list_cosine_similarity(newer.persona, older.persona) as similarity,
    newer.item_count,
    older.item_count as previous_item_count,
    newer.item_count - older.item_count as new_item_count
from night
inner join persona_vectors as newer on night.ds = newer.ds
inner join persona_vectors as older
    on
        night.previous_ds = older.ds
        and newer.user_id = older.user_id
        -- vectors of two encoders have no angle between them
        and newer.encoder_sha256 = older.encoder_sha256
order by
    similarity,
    newer.user_id
limit $limit
