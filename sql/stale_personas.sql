-- stale_personas: a user whose persona misses items that were ingested or changed after the newest night.
-- Grain:  one row per user_id
-- Reads:  encode_nights, history_vectors, histories
-- Params: $min_items (INT, default 1), $limit (INT, default 100)
-- Holds:  missing_item_count >= 1; persona_ds is null or newest_item_ds > persona_ds
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

-- each of the two who ask wants few of the columns, or few of the users
live as not materialized (
    select
        there.user_id,
        there.kind,
        there.item_id
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

has_persona as (
    select distinct
        live.user_id,
        span.ds as persona_ds
    from live
    cross join span
),

behind as (
    select
        histories.user_id,
        has_persona.persona_ds,
        count(*) as missing_item_count,
        max(histories.ds) as newest_item_ds
    from histories
    left join has_persona using (user_id)
    where has_persona.persona_ds is null or histories.ds > has_persona.persona_ds
    group by
        histories.user_id,
        has_persona.persona_ds
    having missing_item_count >= $min_items
    order by
        missing_item_count desc,
        histories.user_id asc
    limit $limit
),

counted as (
    select
        user_id,
        count(distinct { 'kind': kind, 'item_id': item_id }) as item_count
    from live
    where user_id in (select behind.user_id from behind)
    group by user_id
)

select
    behind.user_id,
    behind.persona_ds,
    counted.item_count::int as persona_item_count,
    behind.missing_item_count,
    behind.newest_item_ds,
    behind.newest_item_ds - behind.persona_ds as days_behind
from behind
left join counted using (user_id)
order by
    behind.missing_item_count desc,
    behind.user_id asc
