-- changed_users: how many items of a user a night must look at, and their weight: one each, a long one bytes / 2,000
-- Grain:  one row per user_id
-- Reads:  histories, settled_histories, deletions
-- Params: $ds (DATE), $before (DATE: the night it stands on; null: on none), $kinds (TEXT[]: kinds that read otherwise)
-- Holds:  the rows of changed_items; weight >= item_count > 0
with changed as (
    select
        user_id,
        kind,
        item_id,
        (strlen(text) + coalesce(strlen(output), 0)) // 2000 as weight,
        is_edit and $before is not null as is_edit,
        ds <= $ds and posted_at < $ds + interval 1 day as is_there
    from histories
    union all
    select
        user_id,
        kind,
        item_id,
        (strlen(text) + coalesce(strlen(output), 0)) // 2000 as weight,
        false as is_edit,
        true as is_there
    from settled_histories
    where
        ds <= $ds
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
),

events as (
    select
        user_id,
        weight
    from changed
    where is_there
    union all
    select
        gone.user_id,
        0 as weight
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
)

select
    user_id,
    count(*) as item_count,
    sum(greatest(1, weight))::bigint as weight
from events
group by user_id
order by user_id
