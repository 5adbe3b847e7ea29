-- recorded_runs: every run that is over, the newest first
-- Grain:  one row per run_id
-- Holds:  seconds >= 0
select
    started_at,
    job,
    ds,
    status,
    epoch(ended_at) - epoch(started_at) as seconds,
    rows_in,
    rows_out,
    rows_rejected,
    tokens,
    tokens / nullif(seconds, 0) as tokens_per_second,
    error,
    run_id,
    ended_at,
    config,
    versions
from runs
order by started_at desc, run_id asc
