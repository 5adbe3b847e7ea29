-- staleness: how many users' personas miss items that were ingested after the newest night, by how late they are.
-- Grain:  one row per days_behind
-- Reads:  live_items, histories
-- Params: none
-- Holds:  missing_item_count >= user_count; days_behind is null or days_behind >= 1
with has_persona as (
    select distinct
        user_id,
        persona_ds
    from live_items
),

behind as (
    select
        histories.user_id,
        max(histories.ds) - has_persona.persona_ds as days_behind,
        count(*) as items
    from histories
    left join has_persona using (user_id)
    where has_persona.persona_ds is null or histories.ds > has_persona.persona_ds
    group by histories.user_id, has_persona.persona_ds
)

select
    days_behind,
    count(*) as user_count,
    sum(items)::bigint as missing_item_count
from behind
group by days_behind
order by days_behind desc nulls first
