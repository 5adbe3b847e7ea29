-- stale_personas: a user whose newest persona misses items that were ingested or changed after its night.
-- Grain:  one row per user_id
-- Reads:  histories, persona_vectors
-- Params: $min_items (INT, default 1), $limit (INT, default 100)
-- Holds:  missing_item_count >= 1; persona_ds is null or newest_item_ds > persona_ds
with newest_personas as (
    select
        user_id,
        max(ds) as persona_ds,
        arg_max(item_count, ds) as persona_item_count
    from persona_vectors
    group by user_id
)

select
    histories.user_id,
    newest_personas.persona_ds,
    newest_personas.persona_item_count,
    count(*) as missing_item_count,
    max(histories.ds) as newest_item_ds,
    newest_item_ds - newest_personas.persona_ds as days_behind
from histories
left join newest_personas using (user_id)
where newest_personas.persona_ds is null or histories.ds > newest_personas.persona_ds
group by
    histories.user_id,
    newest_personas.persona_ds,
    newest_personas.persona_item_count
having missing_item_count >= $min_items
order by
    missing_item_count desc,
    histories.user_id asc
limit $limit
