-- task_coverage: how many tasks of a night were answered with a persona.
-- Grain:  one row per ds, kind
-- Reads:  tasks, outputs, rejects
-- Params: $ds (DATE, default null: every night)
-- Holds:  task_count = history_count + default_count + rejected_count + open_count
with refused as (
    select
        ds,
        row_id as task_id
    from rejects
    where job = 'generate'
    group by ds, row_id
)

select
    tasks.ds,
    tasks.kind,
    count(*) as task_count,
    count(*) filter (where outputs.persona_source = 'history') as history_count,
    count(*) filter (where outputs.persona_source = 'default') as default_count,
    count(*) filter (where outputs.task_id is null and refused.task_id is not null) as rejected_count,
    count(*) filter (where outputs.task_id is null and refused.task_id is null) as open_count,
    history_count / task_count as history_share
from tasks
left join outputs using (ds, task_id)
left join refused using (ds, task_id)
where $ds is null or tasks.ds = $ds
group by tasks.ds, tasks.kind
order by tasks.ds, tasks.kind
