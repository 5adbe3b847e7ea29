-- personas_off_unit_norm: a stored persona whose length is not one, or not a number.
-- Grain:  one row per ds, user_id
-- Reads:  persona_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  persona has unit norm, unless it has no items
select
    ds,
    user_id,
    -- as DOUBLE, since DuckDB takes the empty list of a Parquet file for one with nulls
    sqrt(list_dot_product(persona::double[], persona::double[])) as norm
from persona_vectors
where
    ($ds is null or ds = $ds)
    and item_count is distinct from 0
    -- not(... < ...) so that a norm of null or nan is reported too
    and coalesce(not abs(norm - 1) < 0.0001, true)
order by ds, user_id
