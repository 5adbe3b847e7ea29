-- persona_time_ranges: a stored persona whose items end before they begin, or after its night.
-- Grain:  one row per ds, user_id
-- Reads:  persona_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  first_posted_at <= last_posted_at, and both are before the end of ds (UTC); only no items have no times
select
    ds,
    user_id,
    first_posted_at,
    last_posted_at
from persona_vectors
where
    ($ds is null or ds = $ds)
    and coalesce(first_posted_at > last_posted_at or last_posted_at >= ds + 1, item_count is distinct from 0)
order by ds, user_id
