-- paired_values: a metric over all tasks of a night with its paired difference, newest evaluation
-- Grain:  one row per kind, metric, arm
-- Params: $ds (DATE)
-- Holds:  value between low and high
select
    kind,
    metric,
    arm,
    value,
    low,
    high,
    task_count,
    compared_with,
    difference,
    difference_low,
    difference_high
from evaluations
where ds = $ds and coalesce(slice, 'all') = 'all'
qualify row_number() over (partition by kind, metric, arm order by run_id desc) = 1
order by kind, metric, arm
