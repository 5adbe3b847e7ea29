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
where
    $ds is null
    or (user_id, kind, item_id) in (
        select (asked.user_id, asked.kind, asked.item_id)
        from histories as asked
        where asked.ds = $ds
    )
group by user_id, kind, item_id
having row_count > 1
order by user_id, kind, item_id
