-- staleness: how many users' newest persona misses items that were ingested after its night, by how late it is.
-- Grain:  one row per days_behind
-- Reads:  histories, persona_vectors
-- Params: none
-- Holds:  missing_item_count >= user_count; days_behind is null or days_behind >= 1
with newest_personas as (
    select
        user_id,
        max(ds) as persona_ds
    from persona_vectors
    group by user_id
),

behind as (
    select
        histories.user_id,
        max(histories.ds) - newest_personas.persona_ds as days_behind,
        count(*) as items
    from histories
    left join newest_personas using (user_id)
    where newest_personas.persona_ds is null or histories.ds > newest_personas.persona_ds
    group by
        histories.user_id,
        newest_personas.persona_ds
)

select
    days_behind,
    count(*) as user_count,
    sum(items)::bigint as missing_item_count
from behind
group by days_behind
order by days_behind desc nulls first
