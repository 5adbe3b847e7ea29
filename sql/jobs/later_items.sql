-- later_items: how many items are dated after a night and so left out of its personas
-- Grain:  one row
-- Reads:  histories
-- Params: $ds (DATE)
-- Holds:  they were ingested by the night all the same
select count(*) as item_count
from histories
where
    ds <= $ds
    and posted_at >= $ds + interval 1 day
