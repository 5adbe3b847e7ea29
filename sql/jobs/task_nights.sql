-- task_nights: the nights that have tasks
-- Grain:  one row per ds, kind
-- Reads:  tasks
-- Params: none
-- Holds:  the oldest first
select
    ds,
    kind,
    count(reference) as reference_count
from tasks
group by
    ds,
    kind
order by
    ds,
    kind
