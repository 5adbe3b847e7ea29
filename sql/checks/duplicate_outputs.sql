-- duplicate_outputs: a task_id that stands in a night of outputs more than once.
-- Grain:  one row per ds, task_id
-- Reads:  outputs
-- Params: $ds (DATE, default null: every night)
-- Holds:  a night of outputs has each task_id once
select
    ds,
    task_id,
    count(*) as row_count
from outputs
where $ds is null or ds = $ds
group by ds, task_id
having row_count > 1
order by ds, task_id
