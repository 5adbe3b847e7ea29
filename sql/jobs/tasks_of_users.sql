-- tasks_of_users: the tasks of some users for a night, each with its user's persona
-- Grain:  one row per task_id
-- Reads:  tasks, persona_vectors
-- Params: $ds (DATE), $persona_ds (DATE), $first_user (TEXT), $last_user (TEXT)
-- Holds:  vectors, vector_scales, counts and items are null together: the user has no history
with personas as (
    select
        user_id,
        vectors,
        counts,
        vector_scales,
        items
    from persona_vectors
    where
        ds = $persona_ds
        and user_id between $first_user and $last_user
)

select
    tasks.task_id,
    tasks.user_id,
    tasks.kind,
    tasks.input,
    tasks.choices,
    tasks.reference,
    personas.vectors,
    personas.counts,
    personas.vector_scales,
    personas.items
from tasks
left join personas using (user_id)
where
    tasks.ds = $ds
    and tasks.user_id between $first_user and $last_user
order by
    tasks.user_id,
    tasks.task_id
