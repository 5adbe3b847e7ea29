-- changed_items: an item of some users that a night must encode, or that is gone since the night it stands on
-- Grain:  one row per user_id, kind, item_id
-- Reads:  histories, settled_histories, deletions, reusable_vectors
-- Params: $ds (DATE), $before (DATE: the night it stands on; null: on none), $kinds (TEXT[]: kinds that read otherwise
--         since then), $first_user (TEXT), $last_user (TEXT), $encoder_sha256 (TEXT)
-- Holds:  oldest first within each user; vector, vector_scale and item_sha256 are null together: none was made yet
with changed as (
    select
        user_id,
        kind,
        item_id,
        posted_at,
        text,
        output,
        is_edit and $before is not null as is_edit,
        ds <= $ds and posted_at < $ds + interval 1 day as is_there
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
        and ds <= $ds
        and posted_at < $ds + interval 1 day
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
),

events as (
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
        $ds::timestamp as posted_at,
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
),

newest as (
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
    events.user_id,
    events.kind,
    events.item_id,
    events.posted_at,
    events.text,
    events.output,
    events.is_edit,
    events.is_deleted,
    newest.vector,
    newest.vector_scale,
    newest.item_sha256
from events
left join newest using (user_id, kind, item_id)
order by
    events.user_id,
    events.posted_at,
    events.kind,
    events.item_id
