-- later_items: how many items are dated after a night and so left out of its personas
-- Grain:  one row
-- Params: $ds (DATE)
-- Holds:  item_count >= 0
select count(*) as item_count
from all_histories
where ds <= $ds and posted_at >= $ds + interval 1 day
