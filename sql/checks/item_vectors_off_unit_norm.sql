-- item_vectors_off_unit_norm: an encoded item whose vector has not length one, or none that is a number.
-- Grain:  one row per ds, user_id, kind, item_id
-- Reads:  history_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  vector has unit norm, up to its rounding to 8 bits
select
    ds,
    user_id,
    kind,
    item_id,
    vector_scale * sqrt(list_dot_product(vector::float[], vector::float[])) as norm
from history_vectors
where
    ($ds is null or ds = $ds)
    -- not(... < ...) so that a norm of null or nan is reported too
    and coalesce(not abs(norm - 1) < 0.01, true)
order by
    ds,
    user_id,
    kind,
    item_id
