-- persona_sample: some personas as of a night, for a map of them
-- Grain:  one row per user_id
-- Reads:  persona_vectors
-- Params: $ds (DATE), $sample (INT)
-- Holds:  at most $sample rows, the same ones in every run
with newest as (
    select max(ds) as ds
    from persona_vectors
    where ds <= $ds
)

select
    persona_vectors.user_id,
    persona_vectors.persona,
    persona_vectors.item_count,
    persona_vectors.last_posted_at
from persona_vectors
inner join newest using (ds)
order by hash(persona_vectors.user_id)
limit $sample
