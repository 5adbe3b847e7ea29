-- last_cost: what the largest of a job's last runs took
-- Grain:  at most one row
-- Params: $job (TEXT)
-- Holds:  seconds > 0; runs that computed next to nothing tell no speed and are passed over
with last_runs as (
    select
        run_id,
        tokens,
        epoch(ended_at) - epoch(started_at) as seconds,
        config
    from runs
    where
        job = $job
        and status = 'done'
        and tokens > 1000
        and ended_at > started_at
    order by started_at desc
    limit 7
)

select
    tokens,
    seconds,
    config
from last_runs
order by tokens desc, run_id asc
limit 1
