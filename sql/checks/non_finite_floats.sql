-- non_finite_floats: a row with a number that is missing, infinite or not a number.
-- Grain:  one row per table_name, ds, row_id, column_name
-- Reads:  persona_vectors, history_vectors, outputs, evaluations
-- Params: $ds (DATE, default null: every night)
-- Holds:  every float of every table is finite, and there, unless a persona has no items
with floats as (
    -- the product of a vector with itself is finite only if all of it is
    select
        'persona_vectors' as table_name,
        ds,
        user_id as row_id,
        'persona' as column_name,
        -- as DOUBLE, since DuckDB takes the empty list of a Parquet file for one with nulls
        list_dot_product(persona::double[], persona::double[]) as probe
    from persona_vectors
    where item_count is distinct from 0
    union all
    select
        'persona_vectors' as table_name,
        ds,
        user_id as row_id,
        'vector_scales' as column_name,
        list_sum(vector_scales) as probe
    from persona_vectors
    where item_count is distinct from 0
    union all
    select
        'history_vectors' as table_name,
        ds,
        concat_ws('/', user_id, kind, item_id) as row_id,
        'vector_scale' as column_name,
        vector_scale as probe
    from history_vectors
    union all
    select
        'outputs' as table_name,
        ds,
        task_id as row_id,
        'score' as column_name,
        score as probe
    from outputs
    union all
    select
        'outputs' as table_name,
        ds,
        task_id as row_id,
        'top_items' as column_name,
        coalesce(list_sum([item.weight for item in top_items]), 0) as probe
    from outputs
    union all
    select
        'evaluations' as table_name,
        ds,
        concat_ws('/', kind, arm, metric, slice, run_id) as row_id,
        'value' as column_name,
        value + coalesce(low, 0) + coalesce(high, 0)
        + coalesce(difference, 0) + coalesce(difference_low, 0) + coalesce(difference_high, 0)
        + coalesce(train_seconds, 0) + coalesce(mean_prompt_tokens, 0) + coalesce(answers_per_second, 0) as probe
    from evaluations
)

select
    table_name,
    ds,
    row_id,
    column_name
from floats
where ($ds is null or ds = $ds) and not coalesce(isfinite(probe), false)
order by table_name, ds, row_id, column_name
