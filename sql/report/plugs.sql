-- plugs: with which plugs and models the answers of a night were given
-- Grain:  one row per kind, plug_sha256
-- Reads:  outputs
-- Params: $ds (DATE)
-- Holds:  answer_count >= 1
select
    kind,
    plug_sha256,
    llm_sha256,
    count(*) as answer_count,
    min(persona_ds) as persona_ds
from outputs
where ds = $ds
group by
    kind,
    plug_sha256,
    llm_sha256
order by kind
