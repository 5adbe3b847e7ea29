-- last_speed: how fast a job last computed
-- Grain:  at most one row
-- Reads:  runs
-- Params: $job (TEXT)
-- Holds:  tokens_per_second > 0; runs that computed next to nothing tell no speed and are passed over
select tokens / epoch(ended_at - started_at) as tokens_per_second
from runs
where
    job = $job
    and status = 'done'
    and tokens > 10000
    and ended_at > started_at
order by started_at desc
limit 1
