-- item_kinds: the kinds of the items that were ingested by a night
-- Grain:  one row per kind
-- Params: $ds (DATE)
-- Holds:  in the order of their names
select distinct kind
from histories
where ds <= $ds
order by kind
