-- tasks_of_night: what is queued for a night
-- Grain:  one row per task_id
-- Reads:  tasks
-- Params: $ds (DATE)
-- Holds:  nothing of the users' histories
select
    task_id,
    user_id,
    kind,
    input,
    choices
from tasks
where ds = $ds
order by user_id, task_id
