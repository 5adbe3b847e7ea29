-- mixed_encoders: a night whose vectors come from more than one encoder.
-- Grain:  one row per ds
-- Reads:  history_vectors, persona_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  all vectors of a night have one encoder_sha256
with encoders as (
    select
        ds,
        encoder_sha256
    from history_vectors
    where $ds is null or ds = $ds
    union all
    select
        ds,
        encoder_sha256
    from persona_vectors
    where $ds is null or ds = $ds
)

select
    ds,
    count(distinct encoder_sha256) as encoder_count,
    min(encoder_sha256) as first_encoder_sha256,
    max(encoder_sha256) as last_encoder_sha256
from encoders
group by ds
having encoder_count <> 1
order by ds
