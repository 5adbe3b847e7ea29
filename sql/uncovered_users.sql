-- uncovered_users: a user queued for a night whom `generate` answers with the default persona, most tasks first.
-- Grain:  one row per ds, user_id
-- Reads:  tasks, persona_vectors, histories
-- Params: $ds (DATE, default null: the newest night of tasks), $limit (INT, default 100)
-- Holds:  task_count >= 1; item_count >= 0
with night as (
    select coalesce($ds, max(ds)) as ds
    from tasks
),

persona_night as (
    select max(persona_vectors.ds) as ds
    from persona_vectors
    inner join night on persona_vectors.ds <= night.ds
),

queued as (
    select
        tasks.ds,
        tasks.user_id,
        count(*) as task_count
    from tasks
    inner join night using (ds)
    group by
        tasks.ds,
        tasks.user_id
),

uncovered as (
    select
        queued.ds,
        queued.user_id,
        queued.task_count
    from queued
    where not exists (
        select personas.user_id
        from persona_vectors as personas
        inner join persona_night using (ds)
        where personas.user_id = queued.user_id
    )
)

select
    uncovered.ds,
    uncovered.user_id,
    uncovered.task_count,
    count(histories.item_id) as item_count,
    min(histories.ds) as first_ingested_ds
from uncovered
left join histories on uncovered.user_id = histories.user_id
group by
    uncovered.ds,
    uncovered.user_id,
    uncovered.task_count
order by
    uncovered.task_count desc,
    uncovered.user_id asc
limit $limit
