-- persona_vector_counts: a persona that has too many or too few vectors, or not one count and one item for each.
-- Grain:  one row per ds, user_id
-- Reads:  persona_vectors, runs
-- Params: $ds (DATE, default null: every night)
-- Holds:  vectors, counts and items are equally long: one per item while they fit into max_vectors, never more
with limits as (
    select
        run_id,
        -- 128 is the default
        coalesce(json_extract_string(config, '$..max_vectors')[1]::int, 128) as max_vectors
    from runs
    where job = 'encode'
),

lengths as (
    select
        personas.ds,
        personas.user_id,
        personas.item_count,
        coalesce(len(personas.vectors), 0) as vector_count,
        coalesce(len(personas.counts), 0) as count_count,
        coalesce(len(personas.items), 0) as typical_item_count,
        coalesce(limits.max_vectors, 128) as max_vectors
    from persona_vectors as personas
    left join limits using (run_id)
    where $ds is null or personas.ds = $ds
)

select
    ds,
    user_id,
    item_count,
    vector_count,
    count_count,
    typical_item_count,
    max_vectors
from lengths
where
    vector_count < 1
    or vector_count > max_vectors
    or (item_count <= max_vectors and vector_count <> item_count)
    or count_count <> vector_count
    or typical_item_count <> vector_count
order by
    ds,
    user_id
