-- evaluation_intervals: a metric outside its own interval, or of no task.
-- Grain:  one row per ds, kind, arm, metric, run_id
-- Reads:  evaluations
-- Params: $ds (DATE, default null: every night)
-- Holds:  low <= value <= high, over at least one task
select
    ds,
    kind,
    arm,
    metric,
    run_id,
    low,
    value,
    high,
    task_count
from evaluations
where
    ($ds is null or ds = $ds)
    and (value < low or value > high or task_count < 1)
order by
    ds,
    kind,
    arm,
    metric,
    run_id
