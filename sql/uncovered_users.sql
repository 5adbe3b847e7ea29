-- uncovered_users: a user queued for a night whom `generate` answers with the default persona, most tasks first.
-- Grain:  one row per ds, user_id
-- Reads:  tasks, encode_nights, history_vectors, histories
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
    group by
        tasks.ds,
        tasks.user_id
),

span as (
    select
        max(encode_nights.ds) as ds,
        max(encode_nights.ds) filter (where encode_nights.is_full) as first_ds,
        arg_max(encode_nights.encoder_sha256, encode_nights.ds) as encoder_sha256
    from encode_nights
    inner join night on encode_nights.ds <= night.ds
),

gone as (
    select
        history_vectors.user_id,
        history_vectors.kind,
        history_vectors.item_id,
        max(history_vectors.ds) as ds
    from history_vectors
    inner join span on history_vectors.ds between span.first_ds and span.ds
    where history_vectors.is_deleted and history_vectors.user_id in (select queued.user_id from queued)
    group by
        history_vectors.user_id,
        history_vectors.kind,
        history_vectors.item_id
),

covered as (
    select distinct there.user_id
    from history_vectors as there
    inner join span
        on
            there.ds between span.first_ds and span.ds
            and there.encoder_sha256 = span.encoder_sha256
    left join gone
        on
            there.user_id = gone.user_id
            and there.kind = gone.kind
            and there.item_id = gone.item_id
    where
        not there.is_deleted
        and there.user_id in (select queued.user_id from queued)
        and (gone.ds is null or gone.ds < there.ds)
),

uncovered as (
    select
        queued.ds,
        queued.user_id,
        queued.task_count
    from queued
    anti join covered on queued.user_id = covered.user_id
    order by
        queued.task_count desc,
        queued.user_id asc
    limit $limit
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
