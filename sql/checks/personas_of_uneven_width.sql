-- personas_of_uneven_width: a stored persona as wide as no other of its night, or with a vector of another width.
-- Grain:  one row per ds, user_id
-- Reads:  persona_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  persona and every one of vectors have the width that most personas of the night have, unless it has no items
with nights as (
    select
        ds,
        mode(len(persona)) as width
    from persona_vectors
    where ($ds is null or ds = $ds) and item_count is distinct from 0
    group by ds
),

widths as (
    select
        ds,
        user_id,
        len(persona) as persona_width,
        list_distinct([len(vector) for vector in vectors]) as vector_widths
    from persona_vectors
    where ($ds is null or ds = $ds) and item_count is distinct from 0
)

select
    widths.ds,
    widths.user_id,
    widths.persona_width,
    nights.width as night_width,
    widths.vector_widths
from widths
inner join nights on widths.ds = nights.ds
where
    widths.persona_width is distinct from nights.width
    or widths.vector_widths is distinct from [nights.width]
order by widths.ds, widths.user_id
