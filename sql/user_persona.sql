-- user_persona: one vector of a user's persona and the item that stands for it, the largest first.
-- Grain:  one row per vector_number
-- Reads:  encode_nights, personas_at, histories
-- Params: $user_id (TEXT), $ds (DATE, default null: the newest night)
-- Holds:  sum(item_count) over () = persona_item_count; item_count >= 1
with unnested as (
    select
        user_id,
        ds,
        persona,
        item_count as persona_item_count,
        generate_subscripts(counts, 1) as vector_number,
        unnest(counts) as vector_item_count,
        unnest(vectors) as item_vector,
        unnest(items) as item
    from personas_at(coalesce($ds, (select max(encode_nights.ds) from encode_nights)))
    where user_id = $user_id
)

select
    unnested.user_id,
    unnested.ds,
    unnested.vector_number,
    unnested.vector_item_count as item_count,
    unnested.vector_item_count / unnested.persona_item_count as item_share,
    unnested.persona_item_count,
    list_cosine_similarity(unnested.item_vector::float[], unnested.persona) as similarity,
    unnested.item.kind,
    unnested.item.item_id,
    histories.posted_at,
    histories.text,
    histories.output
from unnested
left join histories
    on
        unnested.user_id = histories.user_id
        and unnested.item.kind = histories.kind
        and unnested.item.item_id = histories.item_id
order by unnested.vector_item_count desc, similarity desc, unnested.vector_number asc
