-- persona_sample: personas as of a night of some users whom its last full night wrote, for a map of them
-- Grain:  one row per user_id
-- Params: $ds (DATE), $sample (INT)
-- Holds:  at most $sample rows, the same ones in every run
with full_night as (
    select max(ds) as ds
    from encode_nights
    where is_full and ds <= $ds
)

select
    user_id,
    persona,
    item_count,
    last_posted_at
from changed_personas_at($ds, (select ds from full_night), $sample)
order by user_id
