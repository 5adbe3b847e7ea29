-- outputs_without_task: an output that answers no task of its night, or one of another user or kind.
-- Grain:  one row per ds, task_id
-- Reads:  outputs, tasks
-- Params: $ds (DATE, default null: every night)
-- Holds:  every output has its task, with the same user_id and kind, in the same night
select
    outputs.ds,
    outputs.task_id,
    outputs.user_id,
    outputs.kind
from outputs
left join tasks using (ds, task_id, user_id, kind)
where ($ds is null or outputs.ds = $ds) and tasks.input is null
order by outputs.ds, outputs.task_id
