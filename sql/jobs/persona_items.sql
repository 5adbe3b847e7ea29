-- persona_items: the items of one kind that some users' personas of a night were made of
-- Grain:  one row per user_id, item_id
-- Params: $kind (TEXT), $first_ds (DATE), $last_ds (DATE): the nights,
--         $first_user (TEXT), $last_user (TEXT), $encoder_sha256 (TEXT)
-- Holds:  oldest first within each user; vector is the newest made by the encoder in these nights; none without one
with newest as (
    select
        user_id,
        item_id,
        vector,
        vector_scale,
        is_deleted
    from history_vectors
    where
        ds between $first_ds and $last_ds
        and kind = $kind
        and encoder_sha256 = $encoder_sha256
        and user_id between $first_user and $last_user
    qualify row_number() over (partition by user_id, item_id order by ds desc) = 1
)

select
    histories.user_id,
    histories.item_id,
    histories.posted_at,
    histories.text,
    histories.output,
    newest.vector,
    newest.vector_scale
from histories
inner join newest using (user_id, item_id)
where
    histories.kind = $kind
    and not newest.is_deleted
    and newest.vector_scale > 0
    and histories.ds <= $last_ds
    and histories.posted_at < $last_ds + interval 1 day
order by histories.user_id, histories.posted_at, histories.item_id
