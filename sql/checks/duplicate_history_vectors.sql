-- duplicate_history_vectors: an item that stands in a night's history_vectors more than once.
-- Grain:  one row per ds, user_id, kind, item_id
-- Reads:  history_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  a night of history_vectors has each (user_id, kind, item_id) once
select
    ds,
    user_id,
    kind,
    item_id,
    count(*) as row_count
from history_vectors
where $ds is null or ds = $ds
group by ds, user_id, kind, item_id
having row_count > 1
order by ds, user_id, kind, item_id
