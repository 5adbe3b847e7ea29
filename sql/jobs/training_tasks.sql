-- training_tasks: the tasks of a kind, whatever their night
-- Grain:  one row per ds, task_id
-- Params: $kind (TEXT)
-- Holds:  reference is null where the night has none
select
    ds,
    task_id,
    user_id,
    queued_at,
    input,
    choices,
    reference
from tasks
where kind = $kind
order by ds, task_id
