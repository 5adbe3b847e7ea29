-- outputs_of_unknown_origin: an output that does not say how it ended, or with whose persona of which night.
-- Grain:  one row per ds, task_id
-- Reads:  outputs
-- Params: $ds (DATE, default null: every night)
-- Holds:  finish_reason is eos, length or choice; persona_source history or default; no persona is from a later night
select
    ds,
    task_id,
    finish_reason,
    persona_source,
    persona_ds
from outputs
where
    ($ds is null or ds = $ds)
    and (
        coalesce(finish_reason not in ('eos', 'length', 'choice'), true)
        or coalesce(persona_source not in ('history', 'default'), true)
        or (persona_source = 'history' and persona_ds is null)
        or persona_ds > ds
    )
order by ds, task_id
