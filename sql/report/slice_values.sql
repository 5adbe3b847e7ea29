-- slice_values: the newest comparison of a night by the length of the history
-- Grain:  one row per kind, metric, arm, slice
-- Params: $ds (DATE)
-- Holds:  value between low and high
select
    kind,
    metric,
    arm,
    slice,
    value,
    low,
    high,
    task_count
from evaluations
where
    ds = $ds
    and starts_with(slice, 'history')
    and arm in ('own', 'other', 'default', 'none')
qualify row_number() over (partition by kind, metric, arm, slice order by run_id desc) = 1
order by kind, metric, slice, arm
