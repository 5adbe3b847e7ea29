-- past_labels: what some users produced for the items that their personas of a night were made of
-- Grain:  one row per user_id, kind, item_id
-- Reads:  histories, history_vectors, persona_vectors
-- Params: $persona_ds (DATE), $users (TEXT[])
-- Holds:  oldest first within each user; vector is null for users whose persona has a vector for each item
with personas as (
    select
        user_id,
        encoder_sha256,
        item_count > len(counts) as is_merged
    from persona_vectors
    where
        ds = $persona_ds
        and list_contains($users, user_id)
),

newest as (
    select
        history_vectors.user_id,
        history_vectors.kind,
        history_vectors.item_id,
        history_vectors.vector
    from history_vectors
    inner join personas using (user_id, encoder_sha256)
    where
        history_vectors.ds <= $persona_ds
        and personas.is_merged
    qualify
        row_number() over (
            partition by history_vectors.user_id, history_vectors.kind, history_vectors.item_id
            order by history_vectors.ds desc
        ) = 1
)

select
    histories.user_id,
    histories.kind,
    histories.item_id,
    histories.output,
    newest.vector
from histories
inner join personas using (user_id)
left join newest using (user_id, kind, item_id)
where
    histories.ds <= $persona_ds
    and histories.posted_at < $persona_ds + interval 1 day
order by
    histories.user_id,
    histories.posted_at,
    histories.kind,
    histories.item_id
