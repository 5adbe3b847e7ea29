-- items_of_users: the items of some users as of a night, each with a vector that some run made of it
-- Grain:  one row per user_id, kind, item_id
-- Reads:  histories, history_vectors
-- Params: $ds (DATE), $first_user (TEXT), $last_user (TEXT), $encoder_sha256 (TEXT)
-- Holds:  oldest first within each user; vector, vector_scale, item_sha256 and vector_ds are null together: nothing was
--         encoded with this encoder yet; that of the newest night up to $ds goes before those of later nights
with newest as (
    select
        user_id,
        kind,
        item_id,
        vector,
        vector_scale,
        item_sha256,
        ds as vector_ds
    from history_vectors
    where
        encoder_sha256 = $encoder_sha256
        and user_id between $first_user and $last_user
    qualify row_number() over (partition by user_id, kind, item_id order by ds <= $ds desc, ds desc) = 1
)

select
    histories.user_id,
    histories.kind,
    histories.item_id,
    histories.posted_at,
    histories.text,
    histories.output,
    newest.vector,
    newest.vector_scale,
    newest.item_sha256,
    newest.vector_ds
from histories
left join newest using (user_id, kind, item_id)
where
    histories.ds <= $ds
    and histories.posted_at < $ds + interval 1 day
    and histories.user_id between $first_user and $last_user
order by
    histories.user_id,
    histories.posted_at,
    histories.kind,
    histories.item_id
