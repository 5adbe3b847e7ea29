-- persona_coverage: how many of the users queued for a night have a persona, as `generate` of that night sees it.
-- Grain:  one row per ds
-- Reads:  tasks, persona_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  user_count = covered_user_count + uncovered_user_count; task_count >= covered_task_count
with persona_nights as (
    select ds as persona_ds
    from persona_vectors
    group by ds
),

queued as (
    select
        ds,
        user_id,
        count(*) as task_count
    from tasks
    where $ds is null or ds = $ds
    group by
        ds,
        user_id
),

nights as (
    select
        task_nights.ds,
        max(persona_nights.persona_ds) as persona_ds
    from (select distinct queued.ds from queued) as task_nights
    left join persona_nights on task_nights.ds >= persona_nights.persona_ds
    group by task_nights.ds
)

select
    nights.ds,
    nights.persona_ds,
    count(*) as user_count,
    count(personas.user_id) as covered_user_count,
    user_count - covered_user_count as uncovered_user_count,
    covered_user_count / user_count as covered_user_share,
    sum(queued.task_count)::bigint as task_count,
    coalesce(sum(queued.task_count) filter (where personas.user_id is not null), 0)::bigint as covered_task_count
from queued
inner join nights on queued.ds = nights.ds
left join persona_vectors as personas
    on
        nights.persona_ds = personas.ds
        and queued.user_id = personas.user_id
group by
    nights.ds,
    nights.persona_ds
order by nights.ds
