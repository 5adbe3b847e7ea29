-- persona_vector_counts: a stored persona of too many or too few vectors, of too few items, or with uneven lists.
-- Grain:  one row per ds, user_id
-- Reads:  persona_vectors, encode_nights
-- Params: $ds (DATE, default null: every night)
-- Holds:  the lists of vectors are equally long: max_vectors at most, none if there are no items, fewer than the items
--         where these have vectors of their own; no count is below min_items
with lengths as (
    select
        persona_vectors.ds,
        persona_vectors.user_id,
        persona_vectors.item_count,
        coalesce(len(persona_vectors.vectors), 0) as vector_count,
        coalesce(len(persona_vectors.vector_scales), 0) as scale_count,
        coalesce(len(persona_vectors.counts), 0) as count_count,
        coalesce(len(persona_vectors.items), 0) as typical_item_count,
        coalesce(len(persona_vectors.label_counts), 0) as label_count_count,
        -- 128 is the default
        coalesce(encode_nights.max_vectors, 128) as max_vectors,
        coalesce(list_min(persona_vectors.counts), 0) < encode_nights.min_items as is_bare,
        coalesce(encode_nights.keeps_items, true) as keeps_items
    from persona_vectors
    left join encode_nights using (ds)
    where $ds is null or persona_vectors.ds = $ds
)

select
    ds,
    user_id,
    item_count,
    vector_count,
    scale_count,
    count_count,
    typical_item_count,
    label_count_count,
    max_vectors
from lengths
where
    vector_count > max_vectors
    or (vector_count < 1) is distinct from (item_count < 1)
    or (vector_count > 0 and item_count < vector_count + keeps_items::int)
    or (vector_count > 0 and is_bare)
    or scale_count <> vector_count
    or count_count <> vector_count
    or typical_item_count <> vector_count
    or label_count_count <> vector_count
order by ds, user_id
