-- user_ranges: ranges of users whose vectors are about $most together, or those of one user
-- Grain:  one row per first_user
-- Params: $most (INT)
-- Holds:  every user of history_vectors and persona_vectors is in one range; first_user <= last_user
with stored as (
    select
        user_id,
        1 as vector_count
    from history_vectors
    union all
    select
        user_id,
        len(counts) as vector_count
    from persona_vectors
),

users as (
    select
        user_id,
        sum(vector_count) as vector_count
    from stored
    group by user_id
),

placed as (
    select
        user_id,
        sum(vector_count) over (order by user_id) // $most as place
    from users
)

select
    min(user_id) as first_user,
    max(user_id) as last_user
from placed
group by place
order by first_user
