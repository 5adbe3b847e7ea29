-- items_until: everything that was posted by the end of a day, oldest first within each user
-- Grain:  one row per user_id, kind, item_id
-- Params: $until (DATE)
-- Holds:  posted_at is before the day after $until
select
    user_id,
    kind,
    item_id,
    posted_at,
    text,
    output
from histories
where posted_at < $until + interval 1 day
order by user_id, posted_at, kind, item_id
