-- items_missing_from_personas: a user of whose new or changed items a night took in only a part, or none.
-- Grain:  one row per ds, user_id
-- Reads:  histories, encode_nights, history_vectors, rejects
-- Params: $ds (DATE, default null: every night)
-- Holds:  a night wrote or rejected each item that came in or came due since the night it is based on, or ever, if full
with unprotected as (
    select coalesce(max(ds) filter (where is_full and is_protected), '0001-01-01'::date) as until_ds
    from encode_nights
),

nights as (
    select
        ds,
        case when not is_full then based_on_ds end as before_ds
    from encode_nights
    where
        ($ds is null or ds = $ds)
        -- `expire` drops what was stored before
        and ds >= (select unprotected.until_ds from unprotected)
),

-- an item that changed later has a later ds by now, so older nights are asked only for what stayed as it was
expected as (
    select
        nights.ds,
        histories.user_id,
        histories.kind,
        histories.item_id
    from histories
    inner join nights
        on
            histories.ds <= nights.ds
            and histories.posted_at < nights.ds + 1
    where
        nights.before_ds is null
        or histories.ds > nights.before_ds
        or histories.posted_at >= nights.before_ds + 1
),

encoded as (
    select
        ds,
        user_id,
        kind,
        item_id
    from history_vectors
    where
        not is_deleted
        and ($ds is null or ds = $ds)
),

refused as (
    select distinct
        ds,
        user_id,
        row_id
    from rejects
    where job = 'encode' and ($ds is null or ds = $ds)
)

select
    expected.ds,
    expected.user_id,
    count(*) as history_item_count,
    count(encoded.item_id) as encoded_item_count,
    count(refused.row_id) as rejected_item_count
from expected
left join encoded
    on
        expected.ds = encoded.ds
        and expected.user_id = encoded.user_id
        and expected.kind = encoded.kind
        and expected.item_id = encoded.item_id
left join refused
    on
        expected.ds = refused.ds
        and expected.user_id = refused.user_id
        and concat_ws('/', expected.kind, expected.item_id) = refused.row_id
group by expected.ds, expected.user_id
having count(*) > count(*) filter (where encoded.item_id is not null or refused.row_id is not null)
order by expected.ds, expected.user_id
