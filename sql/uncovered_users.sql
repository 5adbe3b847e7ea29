-- uncovered_users: a user queued for a night who has no item, so the default persona answers, most tasks first.
-- Grain:  one row per ds, user_id
-- Reads:  tasks, live_items_at, histories
-- Params: $ds (DATE, default null: the newest night of tasks), $limit (INT, default 100)
-- Holds:  task_count >= 1; item_count >= 0
with night as (
    select coalesce($ds, max(ds)) as ds
    from tasks
),

queued as (
    select
        tasks.ds,
        tasks.user_id,
        count(*) as task_count
    from tasks
    inner join night using (ds)
    group by tasks.ds, tasks.user_id
),

covered as (
    select distinct user_id
    from live_items_at((select night.ds from night))
    where user_id in (select queued.user_id from queued)
),

uncovered as (
    select
        queued.ds,
        queued.user_id,
        queued.task_count
    from queued
    anti join covered using (user_id)
    order by queued.task_count desc, queued.user_id asc
    limit $limit
)

select
    uncovered.ds,
    uncovered.user_id,
    uncovered.task_count,
    count(histories.item_id) as item_count,
    min(histories.ds) as first_ingested_ds
from uncovered
left join histories using (user_id)
group by uncovered.ds, uncovered.user_id, uncovered.task_count
order by uncovered.task_count desc, uncovered.user_id asc
