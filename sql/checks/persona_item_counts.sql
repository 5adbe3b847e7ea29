-- persona_item_counts: a stored persona whose counts do not add up to its items, or that counts a vector of no item.
-- Grain:  one row per ds, user_id
-- Reads:  persona_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  item_count is the sum of counts, and every count is at least 1: no item is dropped
select
    ds,
    user_id,
    item_count,
    list_sum(counts)::bigint as counted,
    list_min(counts) as smallest_count
from persona_vectors
where
    ($ds is null or ds = $ds)
    -- no items have no counts: none is stored any more
    and (coalesce(counted, 0) is distinct from item_count or coalesce(smallest_count, 1) < 1)
order by ds, user_id
