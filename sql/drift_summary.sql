-- drift_summary: how far the personas of a night moved since the night before, without naming anybody.
-- Grain:  one row per ds
-- Reads:  persona_vectors
-- Params: $ds (DATE, default null: every night)
-- Holds:  least_similarity <= p05_similarity; p05_similarity <= median_similarity; user_count >= 1; previous_ds < ds
with nights as (
    select
        ds,
        lag(ds) over (order by ds) as previous_ds
    from persona_vectors
    group by ds
),

moved as (
    select
        newer.ds,
        nights.previous_ds,
        newer.item_count - older.item_count as new_item_count,
        list_cosine_similarity(newer.persona, older.persona) as similarity
    from persona_vectors as newer
    inner join nights on newer.ds = nights.ds
    inner join persona_vectors as older
        on
            nights.previous_ds = older.ds
            and newer.user_id = older.user_id
            -- vectors of two encoders have no angle between them
            and newer.encoder_sha256 = older.encoder_sha256
    where $ds is null or newer.ds = $ds
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
group by
    ds,
    previous_ds
order by ds
