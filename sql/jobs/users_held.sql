-- users_held: what is stored of some users before a night
-- Grain:  one row per user_id
-- Params: $users (TEXT[]), $first_ds (DATE), $last_ds (DATE): the nights, $encoder_sha256 (TEXT)
-- Holds:  vector_count counts each version of an item; base_count items in base_vectors are in the stored base
with asked as (
    select unnest($users::text[]) as user_id
),

held as (
    select
        user_id,
        count(*) as vector_count
    from history_vectors
    where
        encoder_sha256 = $encoder_sha256
        and ds between $first_ds and $last_ds
        and user_id in (select asked.user_id from asked)
    group by user_id
),

bases as (
    select
        user_id,
        item_count,
        len(counts) as vector_count,
        last_posted_at,
        last_item
    from persona_vectors
    where
        encoder_sha256 = $encoder_sha256
        and ds between $first_ds and $last_ds
        and user_id in (select asked.user_id from asked)
    qualify row_number() over (partition by user_id order by ds desc) = 1
)

select
    asked.user_id,
    coalesce(held.vector_count, 0) as vector_count,
    coalesce(bases.item_count, 0) as base_count,
    coalesce(bases.vector_count, 0) as base_vectors,
    bases.last_posted_at,
    bases.last_item.kind as last_kind,
    bases.last_item.item_id as last_item_id
from asked
left join held using (user_id)
left join bases using (user_id)
