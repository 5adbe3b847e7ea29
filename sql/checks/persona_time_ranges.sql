-- persona_time_ranges: a persona whose items end before they begin, or after its night.
-- Grain:  one row per ds, user_id
-- Reads:  persona_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  first_posted_at <= last_posted_at, and both are before the end of ds (UTC)
select
    ds,
    user_id,
    first_posted_at,
    last_posted_at
from persona_vectors
where
    ($ds is null or ds = $ds)
    and coalesce(first_posted_at > last_posted_at or last_posted_at >= ds + 1, true)
order by
    ds,
    user_id
