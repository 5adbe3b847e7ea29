-- task_nights: the nights that have tasks
-- Grain:  one row per ds
-- Reads:  tasks
-- Params: none
-- Holds:  the oldest first
select distinct ds
from tasks
order by ds
