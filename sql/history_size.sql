-- history_size: how many items users have of a kind.
-- Grain:  one row per kind
-- Reads:  histories
-- Params: none
-- Holds:  item_count >= user_count; item_count >= output_count; median_items between fewest_items and most_items
with users as (
    select
        kind,
        user_id,
        count(*) as items,
        count(output) as outputs,
        min(posted_at) as first_posted_at,
        max(posted_at) as last_posted_at
    from histories
    group by kind, user_id
)

select
    kind,
    count(*) as user_count,
    sum(items)::bigint as item_count,
    sum(outputs)::bigint as output_count,
    min(items) as fewest_items,
    median(items) as median_items,
    quantile_cont(items, 0.95) as p95_items,
    max(items) as most_items,
    min(first_posted_at) as first_posted_at,
    max(last_posted_at) as last_posted_at
from users
group by kind
order by kind
