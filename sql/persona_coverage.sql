-- persona_coverage: how many of the users queued for a night have a persona, as `generate` of that night sees it.
-- Grain:  one row per ds
-- Reads:  tasks, encode_nights, history_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  user_count = covered_user_count + uncovered_user_count; task_count >= covered_task_count
with queued as (
    select
        ds,
        user_id,
        count(*) as task_count
    from tasks
    where $ds is null or ds = $ds
    group by ds, user_id
),

nights as (
    select
        task_nights.ds,
        max(encode_nights.ds) as persona_ds,
        max(encode_nights.ds) filter (where encode_nights.is_full) as first_ds,
        arg_max(encode_nights.encoder_sha256, encode_nights.ds) as encoder_sha256
    from (select distinct queued.ds from queued) as task_nights
    left join encode_nights on task_nights.ds >= encode_nights.ds
    group by task_nights.ds
),

gone as (
    select
        user_id,
        kind,
        item_id,
        ds,
        lag(ds) over (partition by user_id, kind, item_id order by ds) as previous_ds
    from history_vectors
    where is_deleted and user_id in (select queued.user_id from queued)
),

-- from a night on, until another, a user has an item
spells as (
    select distinct
        there.user_id,
        there.encoder_sha256,
        there.ds as from_ds,
        gone.ds as until_ds
    from history_vectors as there
    left join gone
        on
            there.user_id = gone.user_id
            and there.kind = gone.kind
            and there.item_id = gone.item_id
            and there.ds < gone.ds
            and there.ds >= coalesce(gone.previous_ds, there.ds)
    where not there.is_deleted and there.user_id in (select queued.user_id from queued)
),

covered as (
    select distinct
        queued.ds,
        queued.user_id
    from queued
    inner join nights using (ds)
    inner join spells
        on
            queued.user_id = spells.user_id
            and nights.encoder_sha256 = spells.encoder_sha256
            and spells.from_ds between nights.first_ds and nights.persona_ds
    where spells.until_ds is null or spells.until_ds > nights.persona_ds
)

select
    nights.ds,
    nights.persona_ds,
    count(*) as user_count,
    count(covered.user_id) as covered_user_count,
    user_count - covered_user_count as uncovered_user_count,
    covered_user_count / user_count as covered_user_share,
    sum(queued.task_count)::bigint as task_count,
    coalesce(sum(queued.task_count) filter (where covered.user_id is not null), 0)::bigint as covered_task_count
from queued
inner join nights using (ds)
left join covered using (ds, user_id)
group by nights.ds, nights.persona_ds
order by nights.ds
