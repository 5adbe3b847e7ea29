-- outputs_outside_choices: an answer to a closed task that is none of its choices, or an output without text.
-- Grain:  one row per ds, task_id
-- Reads:  outputs, tasks
-- Params: $ds (DATE, default null: every night)
-- Holds:  a task with choices is answered by one of them, and only such a task ends with finish_reason 'choice'
select
    outputs.ds,
    outputs.task_id,
    outputs.output,
    outputs.finish_reason,
    tasks.choices
from outputs
inner join tasks using (ds, task_id)
where
    ($ds is null or outputs.ds = $ds)
    and (
        outputs.output is null
        or (tasks.choices is not null and not list_contains(tasks.choices, outputs.output))
        or (tasks.choices is not null) is distinct from (outputs.finish_reason = 'choice')
    )
order by outputs.ds, outputs.task_id
