-- evaluation_intervals: a metric or a difference outside its own interval, or of no task.
-- Grain:  one row per ds, kind, arm, metric, slice, run_id
-- Reads:  evaluations
-- Params: $ds (DATE, default null: every night)
-- Holds:  low <= value <= high, also of differences, over at least one task
select
    ds,
    kind,
    arm,
    metric,
    slice,
    run_id,
    low,
    value,
    high,
    difference_low,
    difference,
    difference_high,
    task_count
from evaluations
where
    ($ds is null or ds = $ds)
    and (
        value < low
        or value > high
        or difference < difference_low
        or difference > difference_high
        or task_count < 1
    )
order by ds, kind, arm, metric, slice, run_id
