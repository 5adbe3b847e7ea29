-- drift_summary: how far the personas that changed in a night moved since the night before, without naming anybody.
-- Grain:  one row per ds
-- Reads:  encode_nights, changed_personas_at
-- Params: $ds (DATE, default null: the newest night), $sample (INT, default 1000)
-- Holds:  least_similarity <= p05_similarity; p05_similarity <= median_similarity; user_count >= 1; previous_ds < ds
with compared as (
    select
        ds,
        lag(ds) over (order by ds) as previous_ds
    from encode_nights
    qualify previous_ds is not null and ($ds is null or ds = $ds)
    order by ds desc
    limit 1
),

-- at most $sample of the users, the same ones in both
moved as (
    select
        newer.ds,
        older.ds as previous_ds,
        newer.item_count - older.item_count as new_item_count,
        list_cosine_similarity(newer.persona, older.persona) as similarity
    from changed_personas_at((select ds from compared), (select ds from compared), $sample) as newer
    inner join changed_personas_at((select previous_ds from compared), (select ds from compared), $sample) as older
        on
            newer.user_id = older.user_id
            -- vectors of two encoders have no angle between them
            and newer.encoder_sha256 = older.encoder_sha256
)

select
    ds,
    previous_ds,
    count(*) as user_count,
    count(*) filter (where new_item_count <> 0) as changed_user_count,
    min(similarity) as least_similarity,
    quantile_cont(similarity, 0.05) as p05_similarity,
    median(similarity) as median_similarity
from moved
group by ds, previous_ds
order by ds
