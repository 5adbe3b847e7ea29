-- item_vectors_off_unit_norm: an encoded item whose vector has not length one, or a deleted one that has a vector.
-- Grain:  one row per ds, user_id, kind, item_id
-- Reads:  history_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  vector has unit norm, up to its rounding to 8 bits; that of a deleted item is empty
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
    and case when is_deleted then coalesce(len(vector), 0) > 0 else coalesce(not abs(norm - 1) < 0.01, true) end
order by
    ds,
    user_id,
    kind,
    item_id
