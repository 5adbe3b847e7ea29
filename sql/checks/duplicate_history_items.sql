-- duplicate_history_items: an item that stands in histories more than once.
-- Grain:  one row per user_id, kind, item_id
-- Reads:  histories
-- Params: $ds (DATE, default null: every night)
-- Holds:  histories has each (user_id, kind, item_id) once
select
    user_id,
    kind,
    item_id,
    count(*) as row_count,
    min(ds) as first_ds,
    max(ds) as last_ds
from histories
group by user_id, kind, item_id
having
    row_count > 1
    and ($ds is null or bool_or(ds = $ds))
order by user_id, kind, item_id
