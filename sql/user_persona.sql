-- user_persona: one vector of a user's newest persona and the item that stands for it, the largest first.
-- Grain:  one row per vector_number
-- Reads:  persona_vectors, histories
-- Params: $user_id (TEXT), $ds (DATE, default null: the user's newest night)
-- Holds:  sum(item_count) over () = persona_item_count; item_count >= 1
with newest as (
    select
        user_id,
        ds,
        persona,
        vectors,
        counts,
        items,
        item_count
    from persona_vectors
    where user_id = $user_id and ($ds is null or ds = $ds)
    qualify row_number() over (order by ds desc) = 1
),

unnested as (
    select
        user_id,
        ds,
        persona,
        item_count as persona_item_count,
        generate_subscripts(counts, 1) as vector_number,
        unnest(counts) as item_count,
        unnest(vectors) as item_vector,
        unnest(items) as item
    from newest
)

select
    unnested.user_id,
    unnested.ds,
    unnested.vector_number,
    unnested.item_count,
    unnested.item_count / unnested.persona_item_count as item_share,
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
order by
    unnested.item_count desc,
    similarity desc,
    unnested.vector_number asc
