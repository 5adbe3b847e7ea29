-- items_of_users: every item of some users as of a night
-- Grain:  one row per user_id, kind, item_id
-- Params: $ds (DATE), $users (TEXT[])
-- Holds:  oldest first within each user; is_deleted is false and item_sha256 null, as of items that nothing was made of
select
    user_id,
    kind,
    item_id,
    posted_at,
    text,
    output,
    false as is_deleted,
    null::text as item_sha256
from all_histories
where
    user_id in (select unnest($users::text[]))
    and ds <= $ds
    and posted_at < $ds + interval 1 day
order by user_id, posted_at, kind, item_id
