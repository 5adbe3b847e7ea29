-- persona_sizes: how many items the personas of some users were made of
-- Grain:  one row per user_id
-- Params: $users (TEXT[]), $first_ds (DATE), $last_ds (DATE): the nights, $encoder_sha256 (TEXT)
-- Holds:  item_count > 0; users without a history have no row
with newest as (
    select
        user_id,
        is_deleted
    from history_vectors
    where
        encoder_sha256 = $encoder_sha256
        and ds between $first_ds and $last_ds
        and user_id in (select unnest($users::text[]))
    qualify row_number() over (partition by user_id, kind, item_id order by ds desc) = 1
)

select
    user_id,
    count(*) as item_count
from newest
where not is_deleted
group by user_id
order by user_id
