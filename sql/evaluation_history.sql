-- evaluation_history: a metric over all tasks of a night, newest evaluation, and the difference to the night before.
-- Grain:  one row per ds, kind, arm, metric
-- Reads:  evaluations, runs
-- Params: $kind (TEXT, default null: every kind), $metric (TEXT, default null: every metric)
-- Holds:  value between low and high; (difference is null) = (previous_value is null)
with newest as (
    select evaluations.*
    from evaluations
    left join runs using (run_id)
    where
        coalesce(evaluations.slice, 'all') = 'all'
        and ($kind is null or evaluations.kind = $kind)
        and ($metric is null or evaluations.metric = $metric)
    qualify row_number() over (
        partition by evaluations.ds, evaluations.kind, evaluations.arm, evaluations.metric
        order by runs.started_at desc nulls last, evaluations.run_id desc
    ) = 1
)

select
    ds,
    kind,
    arm,
    metric,
    value,
    low,
    high,
    task_count,
    lag(value) over (partition by kind, arm, metric order by ds) as previous_value,
    value - previous_value as difference,
    run_id
from newest
order by kind, metric, ds, arm
