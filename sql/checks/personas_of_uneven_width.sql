-- personas_of_uneven_width: a stored persona as wide as no other of its night, or with a vector of another width.
-- Grain:  one row per ds, user_id
-- Reads:  persona_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  persona and every one of vectors have the width that most personas of the night have, unless it has no items
with widths as (
    select
        ds,
        user_id,
        len(persona) as persona_width,
        mode(len(persona)) over (partition by ds) as night_width,
        list_distinct([len(vector) for vector in vectors]) as vector_widths
    from persona_vectors
    where ($ds is null or ds = $ds) and item_count is distinct from 0
)

select
    ds,
    user_id,
    persona_width,
    night_width,
    vector_widths
from widths
where persona_width is distinct from night_width or vector_widths is distinct from [night_width]
order by ds, user_id
