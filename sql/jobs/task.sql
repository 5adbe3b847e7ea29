-- task: a task with what was answered, and what the user would have written
-- Grain:  one row
-- Params: $task_id (TEXT), $ds (DATE or null: the task's newest night)
-- Holds:  no row where there is no such task
select
    tasks.task_id,
    tasks.ds,
    tasks.user_id,
    tasks.kind,
    tasks.input,
    outputs.output as answer,
    tasks.reference,
    exp(outputs.score) as probability,
    outputs.finish_reason,
    outputs.persona_source,
    outputs.persona_ds
from tasks
left join outputs using (ds, task_id)
where tasks.task_id = $task_id and ($ds is null or tasks.ds = $ds)
order by tasks.ds desc
limit 1
