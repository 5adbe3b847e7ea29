-- night_summary: the newest run of a job in a night, and what all its runs of that night cost.
-- Grain:  one row per ds, job
-- Reads:  runs
-- Params: $ds (DATE, default null: every night)
-- Holds:  status <> 'done' or rows_in = rows_out + rows_rejected; run_count >= unfinished_count; all_tokens >= tokens
select
    ds,
    job,
    status,
    started_at,
    epoch(ended_at) - epoch(started_at) as seconds,
    rows_in,
    rows_out,
    rows_rejected,
    tokens,
    tokens / nullif(seconds, 0) as tokens_per_second,
    count(*) over night as run_count,
    count(*) filter (where status <> 'done') over night as unfinished_count,
    sum(epoch(ended_at) - epoch(started_at)) over night as all_seconds,
    (sum(tokens) over night)::bigint as all_tokens
from runs
where $ds is null or ds = $ds
window night as (partition by ds, job)
qualify row_number() over (partition by ds, job order by started_at desc, run_id desc) = 1
order by ds, started_at, job
