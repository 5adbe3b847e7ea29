-- item_changes: an item of a range of users that a night must look at: new, changed or gone since the one it stands on.
-- Grain:  one row per user_id, kind, item_id
-- Params: $night (DATE), $before (DATE: the night it stands on; null: on none), $kinds (TEXT[]: kinds that the encoder
--         reads otherwise since then), $first_user (TEXT), $last_user (TEXT)
-- Holds:  an item that is gone (is_deleted) has no text
with changed as (
    select
        user_id,
        kind,
        item_id,
        posted_at,
        text,
        output,
        is_edit and $before is not null as is_edit,
        ds <= $night and posted_at < $night + interval 1 day as is_there
    from histories
    where user_id between $first_user and $last_user
    union all
    select
        user_id,
        kind,
        item_id,
        posted_at,
        text,
        output,
        list_contains($kinds::text[], kind) as is_edit,
        true as is_there
    from settled_histories
    where
        user_id between $first_user and $last_user
        and ds <= $night
        and posted_at < $night + interval 1 day
        and (posted_at >= $before::date + interval 1 day or list_contains($kinds::text[], kind))
),

gone as (
    select
        user_id,
        kind,
        item_id
    from changed
    where not is_there and is_edit
    union distinct
    select
        user_id,
        kind,
        item_id
    from deletions
    where user_id between $first_user and $last_user
)

select
    user_id,
    kind,
    item_id,
    posted_at,
    text,
    output,
    is_edit,
    false as is_deleted
from changed
where is_there
union all
select
    gone.user_id,
    gone.kind,
    gone.item_id,
    $night::timestamp as posted_at,
    '' as no_text,
    null as output,
    true as is_edit,
    true as is_deleted
from gone
where not exists (
    select changed.item_id
    from changed
    where
        changed.is_there
        and changed.user_id = gone.user_id
        and changed.kind = gone.kind
        and changed.item_id = gone.item_id
)
