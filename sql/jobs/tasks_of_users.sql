-- tasks_of_users: the tasks of some users for a night
-- Grain:  one row per task_id
-- Params: $ds (DATE), $first_user (TEXT), $last_user (TEXT)
-- Holds:  in the order of users
select
    task_id,
    user_id,
    kind,
    input,
    choices,
    reference
from tasks
where ds = $ds and user_id between $first_user and $last_user
order by user_id, task_id
