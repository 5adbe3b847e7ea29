-- user_sizes: how many items a user has as of a night
-- Grain:  one row per user_id
-- Reads:  histories
-- Params: $ds (DATE)
-- Holds:  what is posted on the day of $ds counts; item_count > 0
select
    user_id,
    count(*) as item_count
from histories
where
    ds <= $ds
    and posted_at < $ds + interval 1 day
group by user_id
order by user_id
