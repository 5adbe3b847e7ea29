-- deleted_items_in_personas: an item that was deleted by a night, and that the personas as of that night still hold.
-- Grain:  one row per ds, user_id, kind, item_id
-- Reads:  deletions, histories, encode_nights, history_vectors
-- Params: $ds (DATE, default null: the newest night)
-- Holds:  what was deleted by a night and did not come back is in no persona as of the night
with span as (
    select
        max(ds) as ds,
        max(ds) filter (where is_full) as first_ds,
        arg_max(encoder_sha256, ds) as encoder_sha256
    from encode_nights
    where $ds is null or ds <= $ds
),

gone as (
    select
        span.ds,
        deletions.user_id,
        deletions.kind,
        deletions.item_id
    from deletions
    inner join span on deletions.ds <= span.ds
    anti join histories using (user_id, kind, item_id)
    where $ds is null or span.ds = $ds
)

select
    gone.ds,
    gone.user_id,
    gone.kind,
    gone.item_id,
    max(history_vectors.ds) as encoded_ds
from history_vectors
inner join span
    on
        history_vectors.ds between span.first_ds and span.ds
        and history_vectors.encoder_sha256 = span.encoder_sha256
inner join gone using (user_id, kind, item_id)
group by gone.ds, gone.user_id, gone.kind, gone.item_id
having not arg_max(history_vectors.is_deleted, history_vectors.ds)
order by gone.ds, gone.user_id, gone.kind, gone.item_id
