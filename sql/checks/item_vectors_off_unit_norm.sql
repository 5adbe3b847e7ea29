-- item_vectors_off_unit_norm: an encoded item whose vector has not length one, or one that has a vector and may not.
-- Grain:  one row per ds, user_id, kind, item_id
-- Reads:  history_vectors, encode_nights
-- Params: $ds (DATE, default null: every night)
-- Holds:  vector has unit norm, up to its rounding to 8 bits; that of a deleted item is empty, and all of a night that
--         keeps no vectors of items
select
    history_vectors.ds,
    history_vectors.user_id,
    history_vectors.kind,
    history_vectors.item_id,
    history_vectors.vector_scale
    * sqrt(list_dot_product(history_vectors.vector::float[], history_vectors.vector::float[])) as norm
from history_vectors
left join encode_nights using (ds)
where
    ($ds is null or history_vectors.ds = $ds)
    and case
        when history_vectors.is_deleted or not coalesce(encode_nights.keeps_items, true)
            then coalesce(len(history_vectors.vector), 0) > 0
        -- not(... < ...) so that a norm of null or nan is reported too
        else coalesce(not abs(norm - 1) < 0.01, true)
    end
order by history_vectors.ds, history_vectors.user_id, history_vectors.kind, history_vectors.item_id
