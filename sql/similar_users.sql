-- similar_users: a user whose persona is near that of $user_id, the nearest first.
-- Grain:  one row per user_id
-- Reads:  encode_nights, personas_at, personas_between
-- Params: $user_id (TEXT), $limit (INT, default 10), $ds (DATE, default null: the newest night),
--         $first_user (TEXT, default null), $last_user (TEXT, default null: all neighbours, a range of them at a time)
-- Holds:  similarity between -1.00001 and 1.00001
with as_of as (
    select coalesce($ds, max(ds)) as ds
    from encode_nights
)

select
    neighbours.user_id,
    neighbours.ds,
    list_cosine_similarity(neighbours.persona, wanted.persona) as similarity,
    neighbours.item_count,
    neighbours.last_posted_at
from personas_between((select ds from as_of), $first_user, $last_user) as neighbours
inner join personas_at((select ds from as_of)) as wanted on neighbours.user_id <> wanted.user_id
where wanted.user_id = $user_id
order by similarity desc, neighbours.user_id asc
limit $limit
