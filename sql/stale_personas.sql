-- stale_personas: a user whose persona misses items that were ingested or changed after the newest night.
-- Grain:  one row per user_id
-- Reads:  live_items, histories
-- Params: $min_items (INT, default 1), $limit (INT, default 100)
-- Holds:  missing_item_count >= 1; persona_ds is null or newest_item_ds > persona_ds
with has_persona as (
    select distinct
        user_id,
        persona_ds
    from live_items
),

behind as (
    select
        histories.user_id,
        has_persona.persona_ds,
        count(*) as missing_item_count,
        max(histories.ds) as newest_item_ds
    from histories
    left join has_persona using (user_id)
    where has_persona.persona_ds is null or histories.ds > has_persona.persona_ds
    group by histories.user_id, has_persona.persona_ds
    having missing_item_count >= $min_items
    order by missing_item_count desc, histories.user_id asc
    limit $limit
),

counted as (
    select
        user_id,
        count(distinct { 'kind': kind, 'item_id': item_id }) as item_count
    from live_items
    where user_id in (select behind.user_id from behind)
    group by user_id
)

select
    behind.user_id,
    behind.persona_ds,
    counted.item_count::int as persona_item_count,
    behind.missing_item_count,
    behind.newest_item_ds,
    behind.newest_item_ds - behind.persona_ds as days_behind
from behind
left join counted using (user_id)
order by behind.missing_item_count desc, behind.user_id asc
