-- audited_vectors: what the files of a table still hold of some users' items, whether personas are made of it or not
-- Grain:  one row per user_id, kind, item_id
-- Params: $users (TEXT[]), $ds (DATE), $encoder_sha256 (TEXT)
-- Holds:  vector_scale > 0; the newest version of an item that has a vector
select
    user_id,
    kind,
    item_id,
    vector,
    vector_scale
from history_vectors
where
    user_id in (select unnest($users::text[]))
    and ds <= $ds
    and encoder_sha256 = $encoder_sha256
    and vector_scale > 0
qualify row_number() over (partition by user_id, kind, item_id order by ds desc) = 1
order by user_id, kind, item_id
