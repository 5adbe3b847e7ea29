-- items_of_the_future: items that are dated after the night they were ingested in, so that `encode` leaves them out.
-- Grain:  one row per ds
-- Reads:  histories
-- Params: $ds (DATE, default null: every night)
-- Holds:  an item was posted by the end of the night it came in; a wrong clock, zone or column breaks that
select
    ds,
    count(*) as item_count,
    count(distinct user_id) as user_count,
    min(posted_at) as first_posted_at,
    max(posted_at) as last_posted_at
from histories
where posted_at >= ds + interval 1 day and ($ds is null or ds = $ds)
group by ds
order by ds
