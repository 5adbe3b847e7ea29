-- changed_items: what a night must look at of some users, each item with the vector that an earlier run made of it
-- Grain:  one row per user_id, kind, item_id
-- Params: $ds (DATE), $before (DATE: the night it stands on; null: on none), $kinds (TEXT[]: kinds that read otherwise
--         since then), $first_user (TEXT), $last_user (TEXT), $part (INT), $parts (INT): which of their items, of how
--         many parts, $encoder_sha256 (TEXT)
-- Holds:  oldest first within each user; vector, vector_scale and item_sha256 are null together: none was made yet
with newest as (
    select
        user_id,
        kind,
        item_id,
        vector,
        vector_scale,
        item_sha256
    from reusable_vectors
    where
        encoder_sha256 = $encoder_sha256
        and not is_deleted
        and user_id between $first_user and $last_user
    qualify row_number() over (partition by user_id, kind, item_id order by ds <= $ds desc, ds desc) = 1
)

select
    changes.user_id,
    changes.kind,
    changes.item_id,
    changes.posted_at,
    changes.text,
    changes.output,
    changes.is_edit,
    changes.is_deleted,
    newest.vector,
    newest.vector_scale,
    newest.item_sha256
from item_changes($ds, $before, $kinds, $first_user, $last_user) as changes
left join newest using (user_id, kind, item_id)
where hash(changes.kind, changes.item_id) % $parts = $part
order by changes.user_id, changes.posted_at, changes.kind, changes.item_id
