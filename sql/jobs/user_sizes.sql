-- user_sizes: how much a user's items weigh as of a night; an item is one, a long one as many as it has 2,000 bytes
-- Grain:  one row per user_id
-- Reads:  histories
-- Params: $ds (DATE)
-- Holds:  what is posted on the day of $ds counts; weight >= the user's items > 0
select
    user_id,
    sum(greatest(1, (strlen(text) + coalesce(strlen(output), 0)) // 2000))::bigint as weight
from histories
where
    ds <= $ds
    and posted_at < $ds + interval 1 day
group by user_id
order by user_id
