-- scored_tasks: what each task with a reference was answered, or null where it was not
-- Grain:  one row per task_id
-- Params: $ds (DATE)
-- Holds:  every task of the night that has a reference; an unanswered one counts as wrong
select
    tasks.task_id,
    tasks.user_id,
    tasks.kind,
    tasks.choices,
    tasks.reference,
    outputs.output
from tasks
left join outputs using (task_id, ds)
where tasks.ds = $ds and tasks.reference is not null
order by tasks.kind, tasks.task_id
