-- similar_users: a user whose persona is near that of $user_id, the nearest first.
-- Grain:  one row per user_id
-- Reads:  persona_vectors
-- Params: $user_id (TEXT), $limit (INT, default 10), $ds (DATE, default null: the user's newest night)
-- Holds:  similarity between -1.00001 and 1.00001
with wanted as (
    select
        user_id,
        ds,
        persona,
        encoder_sha256
    from persona_vectors
    where user_id = $user_id and ($ds is null or ds = $ds)
    qualify row_number() over (order by ds desc) = 1
)

select
    neighbours.user_id,
    neighbours.ds,
    list_cosine_similarity(neighbours.persona, wanted.persona) as similarity,
    neighbours.item_count,
    neighbours.last_posted_at
from persona_vectors as neighbours
inner join wanted
    on
        neighbours.ds = wanted.ds
        and neighbours.encoder_sha256 = wanted.encoder_sha256
        and neighbours.user_id <> wanted.user_id
order by
    similarity desc,
    neighbours.user_id asc
limit $limit
