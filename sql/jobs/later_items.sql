-- later_items: how many items are dated after a night and so left out of its personas
-- Grain:  one row
-- Reads:  histories, settled_histories
-- Params: $ds (DATE)
-- Holds:  item_count >= 0
with there as (
    select
        ds,
        posted_at
    from histories
    union all
    select
        ds,
        posted_at
    from settled_histories
)

select count(*) as item_count
from there
where ds <= $ds and posted_at >= $ds + interval 1 day
