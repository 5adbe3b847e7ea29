-- duplicate_tasks: a task_id that stands in a night of tasks more than once.
-- Grain:  one row per ds, task_id
-- Reads:  tasks
-- Params: $ds (DATE, default null: every night)
-- Holds:  a night of tasks has each task_id once
select
    ds,
    task_id,
    count(*) as row_count
from tasks
where $ds is null or ds = $ds
group by ds, task_id
having row_count > 1
order by ds, task_id
