-- duplicate_persona_vectors: a user_id that stands in a night of persona_vectors more than once.
-- Grain:  one row per ds, user_id
-- Reads:  persona_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  a night of persona_vectors has each user_id once
select
    ds,
    user_id,
    count(*) as row_count
from persona_vectors
where $ds is null or ds = $ds
group by ds, user_id
having row_count > 1
order by ds, user_id
