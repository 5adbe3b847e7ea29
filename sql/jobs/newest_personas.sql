-- newest_personas: the newest night of persona_vectors that a night of tasks may use
-- Grain:  at most one row
-- Reads:  persona_vectors
-- Params: $ds (DATE)
-- Holds:  persona_ds <= $ds; no row when no such night was encoded
select
    ds as persona_ds,
    any_value(encoder_sha256) as encoder_sha256
from persona_vectors
where ds <= $ds
group by ds
order by ds desc
limit 1
