-- scored_users: how many users and tasks of a kind have a reference in a night
-- Grain:  one row per kind
-- Params: $ds (DATE)
-- Holds:  task_count >= user_count
select
    kind,
    count(distinct user_id) as user_count,
    count(*) as task_count
from tasks
where ds = $ds and reference is not null
group by kind
order by kind
