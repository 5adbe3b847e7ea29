-- items_since_base: the items of some users that are newer than the stored part of their personas
-- Grain:  one row per user_id, kind, item_id
-- Reads:  history_vectors, persona_vectors
-- Params: $users (TEXT[]), $whole_users (TEXT[]: those of them of whom all items are wanted), $first_ds (DATE),
--         $last_ds (DATE): the nights, $encoder_sha256 (TEXT)
-- Holds:  oldest first within each user; the newest version of each item
with bases as (
    select
        user_id,
        item_count,
        last_posted_at,
        last_item
    from persona_vectors
    where
        encoder_sha256 = $encoder_sha256
        and ds between $first_ds and $last_ds
        and user_id in (select unnest($users::text[]))
        and not list_contains($whole_users::text[], user_id)
    qualify row_number() over (partition by user_id order by ds desc) = 1
),

newest as (
    select
        user_id,
        kind,
        item_id,
        posted_at,
        label,
        item_sha256,
        vector,
        vector_scale,
        is_deleted
    from history_vectors
    where
        encoder_sha256 = $encoder_sha256
        and ds between $first_ds and $last_ds
        and user_id in (select unnest($users::text[]))
    qualify row_number() over (partition by user_id, kind, item_id order by ds desc) = 1
)

select
    newest.user_id,
    newest.kind,
    newest.item_id,
    newest.posted_at,
    newest.label,
    newest.item_sha256,
    newest.vector,
    newest.vector_scale
from newest
left join bases
    on
        newest.user_id = bases.user_id
        and bases.item_count > 0
where
    not newest.is_deleted
    and (
        bases.user_id is null
        or (newest.posted_at, newest.kind, newest.item_id)
        > (bases.last_posted_at, bases.last_item.kind, bases.last_item.item_id)
    )
order by
    newest.user_id,
    newest.posted_at,
    newest.kind,
    newest.item_id
