-- live_items_at: an item that personas hold as of a night, in each version since it last came back from a deletion.
-- Grain:  one row per user_id, kind, item_id, ds
-- Params: $night (DATE)
-- Holds:  persona_ds is the newest night up to $night; ds <= persona_ds; where items keep no vector of their own, users
--         whose items are too few have no persona
with span as (
    select
        max(encode_nights.ds) as ds,
        max(encode_nights.ds) filter (where encode_nights.is_full) as first_ds,
        arg_max(encode_nights.encoder_sha256, encode_nights.ds) as encoder_sha256,
        arg_max(encode_nights.keeps_items, encode_nights.ds) as keeps_items
    from encode_nights
    where encode_nights.ds <= $night
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
    group by history_vectors.user_id, history_vectors.kind, history_vectors.item_id
),

stored as (
    select
        persona_vectors.user_id,
        arg_max(persona_vectors.item_count, persona_vectors.ds) as item_count
    from persona_vectors
    inner join span
        on
            persona_vectors.ds between span.first_ds and span.ds
            and persona_vectors.encoder_sha256 = span.encoder_sha256
    where not span.keeps_items
    group by persona_vectors.user_id
)

select
    there.user_id,
    there.kind,
    there.item_id,
    there.ds,
    span.ds as persona_ds
from history_vectors as there
inner join span
    on
        there.ds between span.first_ds and span.ds
        and there.encoder_sha256 = span.encoder_sha256
left join gone using (user_id, kind, item_id)
left join stored using (user_id)
where
    not there.is_deleted
    and (gone.ds is null or gone.ds < there.ds)
    and (span.keeps_items or stored.item_count > 0)
