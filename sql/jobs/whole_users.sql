-- whole_users: changed users with the weight of all their items: one each, a long one bytes / 2,000
-- Grain:  one row per user_id
-- Params: $users (TEXT[]), $counts (BIGINT[]), $weights (BIGINT[]): the columns of changed_users
-- Holds:  item_count is that of changed_users; a user who has no item any more keeps their weight
with changed_users as (
    select
        unnest($users::text[]) as user_id,
        unnest($counts::bigint[]) as item_count,
        unnest($weights::bigint[]) as weight
),

there as (
    select
        user_id,
        (strlen(text) + coalesce(strlen(output), 0)) // 2000 as weight
    from all_histories
)

select
    changed_users.user_id,
    changed_users.item_count,
    coalesce(sum(greatest(1, there.weight)), changed_users.weight)::bigint as weight
from changed_users
left join there using (user_id)
group by changed_users.user_id, changed_users.item_count, changed_users.weight
order by changed_users.user_id
