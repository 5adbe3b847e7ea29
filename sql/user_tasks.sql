-- user_tasks: what became of a task of $user_id, the newest first.
-- Grain:  one row per ds, task_id
-- Reads:  tasks, outputs, rejects
-- Params: $user_id (TEXT), $ds (DATE, default null: every night), $limit (INT, default 20)
-- Holds:  outcome in ('answered', 'rejected', 'open'); (outcome = 'answered') = (output is not null)
with refused as (
    select
        ds,
        row_id as task_id,
        min(reason) as reason
    from rejects
    where job = 'generate'
    group by ds, row_id
)

select
    tasks.ds,
    tasks.task_id,
    tasks.kind,
    tasks.queued_at,
    case
        when outputs.task_id is not null then 'answered'
        when refused.task_id is not null then 'rejected'
        else 'open'
    end as outcome,
    tasks.input,
    outputs.output,
    tasks.reference,
    outputs.score,
    outputs.finish_reason,
    outputs.persona_source,
    outputs.persona_ds,
    refused.reason as reject_reason
from tasks
left join outputs using (ds, task_id)
left join refused using (ds, task_id)
where tasks.user_id = $user_id and ($ds is null or tasks.ds = $ds)
order by tasks.ds desc, tasks.queued_at desc, tasks.task_id asc
limit $limit
