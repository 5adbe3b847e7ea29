-- items_since_base: the items of the users asked for that are newer than the stored part of their personas
-- Grain:  one row per user_id, kind, item_id
-- Params: $whole_users (TEXT[]: those of whom all items are wanted), $first_ds (DATE), $last_ds (DATE): the nights,
--         $encoder_sha256 (TEXT)
-- Holds:  oldest first within each user; the newest version of each item
with bases as (
    select
        user_id,
        item_count,
        last_posted_at,
        last_item
    from asked_bases
    where
        encoder_sha256 = $encoder_sha256
        and ds between $first_ds and $last_ds
        and not list_contains($whole_users::text[], user_id)
    qualify row_number() over (partition by user_id order by ds desc) = 1
),

newest as (
    select
        user_id,
        kind,
        item_id,
        posted_at,
        ds,
        is_deleted,
        vector_scale
    from asked_vectors
    where encoder_sha256 = $encoder_sha256 and ds between $first_ds and $last_ds
    qualify row_number() over (partition by user_id, kind, item_id order by ds desc) = 1
),

-- found by their keys alone: vectors are read of these only
wanted as (
    select
        newest.user_id,
        newest.kind,
        newest.item_id,
        newest.ds
    from newest
    left join bases
        on
            newest.user_id = bases.user_id
            and bases.item_count > 0
    where
        not newest.is_deleted
        -- an item without a vector of its own is in the stored part, or in no persona
        and newest.vector_scale > 0
        and (
            bases.user_id is null
            or (newest.posted_at, newest.kind, newest.item_id)
            > (bases.last_posted_at, bases.last_item.kind, bases.last_item.item_id)
        )
)

select
    asked_vectors.user_id,
    asked_vectors.kind,
    asked_vectors.item_id,
    asked_vectors.posted_at,
    asked_vectors.label,
    asked_vectors.item_sha256,
    asked_vectors.vector,
    asked_vectors.vector_scale
from asked_vectors
inner join wanted using (user_id, kind, item_id, ds)
where asked_vectors.encoder_sha256 = $encoder_sha256
order by asked_vectors.user_id, asked_vectors.posted_at, asked_vectors.kind, asked_vectors.item_id
