-- run_row_totals: a finished run that lost rows, or made some up.
-- Grain:  one row per run_id
-- Reads:  runs
-- Params: $ds (DATE, default null: every night)
-- Holds:  rows_in = rows_out + rows_rejected
select
    run_id,
    ds,
    job,
    rows_in,
    rows_out,
    rows_rejected
from runs
where
    ($ds is null or ds = $ds)
    and status = 'done'
    and rows_in is distinct from rows_out + rows_rejected
order by ds, run_id
