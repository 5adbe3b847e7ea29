-- audit_values: what each attack of the newest audit of a night got, and what chance gives
-- Grain:  one row per kind, metric, arm
-- Params: $ds (DATE)
-- Holds:  value between low and high; kind is what was attacked
select
    kind,
    metric,
    arm,
    value,
    low,
    high
from evaluations
where ds = $ds and slice = 'audit'
qualify row_number() over (partition by kind, metric, arm order by run_id desc) = 1
order by kind, metric, arm
