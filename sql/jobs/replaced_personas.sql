-- replaced_personas: a stored part of a persona that a newer one, up to a night, took the place of
-- Grain:  one row per ds, user_id
-- Params: $ds (DATE)
-- Holds:  the newest row of each user up to $ds is not among them
select
    ds,
    user_id
from persona_vectors
where ds <= $ds
qualify row_number() over (partition by user_id order by ds desc) > 1
order by ds, user_id
