-- night_cost: what each job cost in each night, its failed and repeated runs included.
-- Grain:  one row per ds, job
-- Reads:  runs
-- Params: $ds (DATE, default null: every night)
-- Holds:  run_count >= done_count; seconds >= 0; tokens >= 0; rows_per_second is null or rows_per_second >= 0
with costs as (
    select
        ds,
        job,
        count(*) as run_count,
        count(*) filter (where status = 'done') as done_count,
        sum(epoch(ended_at) - epoch(started_at)) as seconds,
        sum(tokens)::bigint as tokens,
        coalesce(max(rows_out) filter (where status = 'done'), 0) as rows_out
    from runs
    where $ds is null or ds = $ds
    group by ds, job
)

select
    ds,
    job,
    run_count,
    done_count,
    seconds,
    tokens,
    rows_out,
    tokens / nullif(seconds, 0) as tokens_per_second,
    rows_out / nullif(seconds, 0) as rows_per_second
from costs
order by ds, job
