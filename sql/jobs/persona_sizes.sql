-- persona_sizes: how many items each user's persona of a night was made of
-- Grain:  one row per user_id
-- Reads:  persona_vectors
-- Params: $persona_ds (DATE)
-- Holds:  item_count > 0; users without a history have no row
select
    user_id,
    item_count
from persona_vectors
where ds = $persona_ds
order by user_id
