-- task_counts: how many tasks a user has queued for a night
-- Grain:  one row per user_id
-- Params: $ds (DATE)
-- Holds:  task_count > 0
select
    user_id,
    count(*) as task_count
from tasks
where ds = $ds
group by user_id
order by user_id
