-- examples: some answers of a night with what they are compared with
-- Grain:  one row per task_id
-- Params: $ds (DATE), $limit (INT)
-- Holds:  at most $limit rows, the same ones in every run
select
    outputs.task_id,
    outputs.user_id,
    outputs.kind,
    tasks.input,
    outputs.output,
    tasks.reference,
    exp(outputs.score) as probability
from outputs
inner join tasks using (ds, task_id)
where outputs.ds = $ds
order by hash(outputs.task_id)
limit $limit
