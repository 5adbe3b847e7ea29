-- texts_of_night: a fingerprint of the items that tasks of some kinds may be answered after
-- Grain:  one row
-- Params: $ds (DATE): the night of the tasks, $last_ds (DATE): that of the personas, $kinds (TEXT[]),
--         $letters (INT): most of a text
-- Holds:  the same for the same items of the same users, in whatever files they are
with asking as (
    select distinct user_id
    from tasks
    where ds = $ds and kind in (select unnest($kinds))
)

select
    count(*) as item_count,
    coalesce(
        bit_xor(
            md5_number_lower(
                concat_ws(
                    chr(31),
                    histories.user_id,
                    histories.kind,
                    histories.item_id,
                    left(histories.text, $letters),
                    histories.output
                )
            )
        ),
        0
    )::text as items_md5
from histories
where
    histories.kind in (select unnest($kinds))
    and histories.output is not null
    and histories.ds <= $last_ds
    and histories.posted_at < $last_ds + interval 1 day
    and histories.user_id in (select asking.user_id from asking)
