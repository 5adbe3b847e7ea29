-- top_items: an item the plug looked at when it answered a task, the heaviest first.
-- Grain:  one row per item_rank
-- Reads:  outputs, histories
-- Params: $task_id (TEXT), $ds (DATE, default null: the task's newest night)
-- Holds:  weight between 0 and 1.00001
with answered as (
    select
        ds,
        task_id,
        user_id,
        top_items
    from outputs
    where task_id = $task_id and ($ds is null or ds = $ds)
    qualify row_number() over (order by ds desc) = 1
),

unnested as (
    select
        ds,
        task_id,
        user_id,
        generate_subscripts(top_items, 1) as item_rank,
        unnest(top_items) as item
    from answered
)

select
    unnested.ds,
    unnested.task_id,
    unnested.user_id,
    unnested.item_rank,
    unnested.item.weight,
    unnested.item.kind,
    unnested.item.item_id,
    histories.posted_at,
    histories.text,
    histories.output
from unnested
left join histories
    on
        unnested.user_id = histories.user_id
        and unnested.item.kind = histories.kind
        and unnested.item.item_id = histories.item_id
order by unnested.item_rank
