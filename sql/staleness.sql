-- staleness: how many users' personas miss items that were ingested after the newest night, by how late they are.
-- Grain:  one row per days_behind
-- Reads:  encode_nights, history_vectors, histories
-- Params: none
-- Holds:  missing_item_count >= user_count; days_behind is null or days_behind >= 1
with span as (
    select
        max(ds) as ds,
        max(ds) filter (where is_full) as first_ds,
        arg_max(encoder_sha256, ds) as encoder_sha256
    from encode_nights
),

gone as (
    select
        history_vectors.user_id,
        history_vectors.kind,
        history_vectors.item_id,
        max(history_vectors.ds) as ds
    from history_vectors
    inner join span on history_vectors.ds between span.first_ds and span.ds
    where history_vectors.is_deleted
    group by
        history_vectors.user_id,
        history_vectors.kind,
        history_vectors.item_id
),

has_persona as (
    select distinct
        there.user_id,
        span.ds as persona_ds
    from history_vectors as there
    inner join span
        on
            there.ds between span.first_ds and span.ds
            and there.encoder_sha256 = span.encoder_sha256
    left join gone
        on
            there.user_id = gone.user_id
            and there.kind = gone.kind
            and there.item_id = gone.item_id
    where not there.is_deleted and (gone.ds is null or gone.ds < there.ds)
),

behind as (
    select
        histories.user_id,
        max(histories.ds) - has_persona.persona_ds as days_behind,
        count(*) as items
    from histories
    left join has_persona using (user_id)
    where has_persona.persona_ds is null or histories.ds > has_persona.persona_ds
    group by
        histories.user_id,
        has_persona.persona_ds
)

select
    days_behind,
    count(*) as user_count,
    sum(items)::bigint as missing_item_count
from behind
group by days_behind
order by days_behind desc nulls first
