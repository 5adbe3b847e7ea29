-- items_missing_from_personas: a user of whose history the night's persona knows only a part, or who has none.
-- Grain:  one row per ds, user_id
-- Reads:  histories, persona_vectors, rejects
-- Params: $ds (DATE, default null: every night)
-- Holds:  a night's personas are made from every item ingested and posted by then that `encode` did not reject
with nights as (
    select ds
    from persona_vectors
    where $ds is null or ds = $ds
    group by ds
),

-- an item that changed later has a later ds by now, so older nights are asked only for what stayed as it was
expected as (
    select
        nights.ds,
        histories.user_id,
        count(*) as history_item_count
    from histories
    inner join nights
        on
            histories.ds <= nights.ds
            and histories.posted_at < nights.ds + 1
    group by
        nights.ds,
        histories.user_id
),

refused as (
    select
        ds,
        user_id,
        count(*) as rejected_item_count
    from rejects
    where job = 'encode'
    group by
        ds,
        user_id
)

select
    expected.ds,
    expected.user_id,
    expected.history_item_count,
    coalesce(personas.item_count, 0) as persona_item_count,
    coalesce(refused.rejected_item_count, 0) as rejected_item_count
from expected
left join persona_vectors as personas using (ds, user_id)
left join refused using (ds, user_id)
where expected.history_item_count > persona_item_count + coalesce(refused.rejected_item_count, 0)
order by
    expected.ds,
    expected.user_id
