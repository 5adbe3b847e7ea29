-- sampled_users: users of whom a night wrote something, at most so many of each night: those of changed_personas_at
-- Grain:  one row per user_id
-- Params: $nights (DATE[]), $sample (INT)
-- Holds:  at most $sample rows for each night, the same ones in every run
with written as (
    select
        ds,
        user_id
    from history_vectors
    where list_contains($nights, ds)
    union
    select
        ds,
        user_id
    from persona_vectors
    where list_contains($nights, ds)
),

sampled as (
    select user_id
    from written
    qualify row_number() over (partition by ds order by hash(user_id), user_id) <= $sample
)

select distinct user_id
from sampled
order by user_id
