-- personas_of: the personas of the users named, as of a night
-- Grain:  one row per user_id
-- Reads:  persona_vectors
-- Params: $persona_ds (DATE), $users (TEXT[])
-- Holds:  users without a history have no row
select
    user_id,
    vectors,
    vector_scales,
    counts,
    items
from persona_vectors
where
    ds = $persona_ds
    and list_contains($users, user_id)
