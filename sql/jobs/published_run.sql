-- published_run: the last run that published a night
-- Grain:  at most one row
-- Params: $job (TEXT), $ds (DATE)
-- Holds:  the run is done and its config says what it published; others may have written to the night since
select
    run_id,
    rows_in,
    rows_out,
    rows_rejected,
    config
from runs
where
    job = $job
    and ds = $ds
    and status = 'done'
    and contains(config, '"published": {')
order by started_at desc
limit 1
