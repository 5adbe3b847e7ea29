-- last_precision: the precision that a model ran in last
-- Grain:  at most one row
-- Params: $model_key (TEXT), $model (TEXT), $dtype_key (TEXT): JSON paths into config and the model's name
-- Holds:  dtype is float32 or bfloat16; no row if the model is in no run that is done
select config ->> $dtype_key as dtype
from runs
where
    status = 'done'
    and config ->> $model_key = $model
    and config ->> $dtype_key in ('float32', 'bfloat16')
order by ended_at desc
limit 1
