-- changed_users: how many items of a user a night must look at, and their weight: one each, a long one bytes / 2,000
-- Grain:  one row per user_id
-- Params: $ds (DATE), $before (DATE: the night it stands on; null: on none), $kinds (TEXT[]: kinds that read otherwise)
-- Holds:  the rows of changed_items; weight >= item_count > 0
select
    user_id,
    count(*) as item_count,
    sum(greatest(1, (strlen(text) + coalesce(strlen(output), 0)) // 2000))::bigint as weight
from item_changes($ds, $before, $kinds, '', chr(1114111))
group by user_id
order by user_id
