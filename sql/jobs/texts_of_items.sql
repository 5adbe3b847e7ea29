-- texts_of_items: what users read and produced for the items asked for
-- Grain:  one row per user_id, kind, item_id of asked_items
-- Params: $last_ds (DATE): the night that personas are as of, $letters (INT): most of a text
-- Holds:  items with an output, as they were ingested up to that night
select
    histories.user_id,
    histories.kind,
    histories.item_id,
    histories.output,
    left(histories.text, $letters) as item_text
from histories
inner join asked_items using (user_id, kind, item_id)
where
    histories.output is not null
    and histories.ds <= $last_ds
    and histories.posted_at < $last_ds + interval 1 day
