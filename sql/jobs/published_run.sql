-- published_run: the run that published a night
-- Grain:  at most one row
-- Reads:  runs
-- Params: $job (TEXT), $ds (DATE), $run_id (TEXT)
-- Holds:  the run is done; it is the one that the live files name, or, where there are none, one that had no rows
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
    and (run_id = $run_id or ($run_id = '' and rows_out = 0))
order by started_at desc
limit 1
