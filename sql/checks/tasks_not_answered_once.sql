-- tasks_not_answered_once: a task of a night that `generate` finished, without an answer or with more than one.
-- Grain:  one row per ds, task_id
-- Reads:  tasks, outputs, rejects, runs
-- Params: $ds (DATE, default null: every night)
-- Holds:  every task of a generated night is in outputs or in rejects, exactly once
with nights as (
    select ds
    from runs
    where job = 'generate' and status = 'done' and ($ds is null or ds = $ds)
    group by ds
),

answered as (
    select
        ds,
        task_id,
        count(*) as output_count
    from outputs
    group by ds, task_id
),

refused as (
    select
        ds,
        row_id as task_id,
        count(*) as reject_count
    from rejects
    where job = 'generate'
    group by ds, row_id
)

select
    tasks.ds,
    tasks.task_id,
    tasks.user_id,
    tasks.kind,
    coalesce(answered.output_count, 0) as output_count,
    coalesce(refused.reject_count, 0) as reject_count
from tasks
inner join nights using (ds)
left join answered using (ds, task_id)
left join refused using (ds, task_id)
where coalesce(answered.output_count, 0) + coalesce(refused.reject_count, 0) <> 1
order by tasks.ds, tasks.task_id
