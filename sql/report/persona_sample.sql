-- persona_sample: personas as of a night of some users whom its last full night wrote, for a map of them
-- Grain:  one row per user_id
-- Reads:  encode_nights, changed_personas_at
-- Params: $ds (DATE), $sample (INT)
-- Holds:  at most $sample rows, the same ones in every run
select
    user_id,
    persona,
    item_count,
    last_posted_at
from changed_personas_at(
    $ds,
    (select max(encode_nights.ds) from encode_nights where encode_nights.is_full and encode_nights.ds <= $ds),
    $sample
)
order by user_id
