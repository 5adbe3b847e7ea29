-- user_sizes: how many items a user has as of a night, and their weight: an item is one, a long one its bytes / 2,000
-- Grain:  one row per user_id
-- Reads:  histories
-- Params: $ds (DATE)
-- Holds:  what is posted on the day of $ds counts; weight >= item_count > 0
select
    user_id,
    count(*) as item_count,
    sum(greatest(1, (strlen(text) + coalesce(strlen(output), 0)) // 2000))::bigint as weight
from histories
where
    ds <= $ds
    and posted_at < $ds + interval 1 day
group by user_id
order by user_id
