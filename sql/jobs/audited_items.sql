-- audited_items: the newest items of some users, chosen by a hash, as of a night
-- Grain:  one row per user_id, kind, item_id
-- Params: $ds (DATE), $seed (INT), $users (INT): most users, $items (INT): most items of each
-- Holds:  oldest first within each user
with there as (
    select
        user_id,
        kind,
        item_id,
        posted_at,
        ds,
        text,
        output
    from histories
    where ds <= $ds and posted_at < $ds + interval 1 day
),

chosen as (
    select user_id
    from there
    group by user_id
    order by md5(concat($seed::text, ' ', user_id)), user_id
    limit $users
)

select there.*
from there
inner join chosen using (user_id)
qualify
    row_number() over (
        partition by there.user_id
        order by there.posted_at desc, there.kind desc, there.item_id desc
    ) <= $items
order by there.user_id, there.posted_at, there.kind, there.item_id
