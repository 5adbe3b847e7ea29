-- encode_nights: a night that `encode` published, and the run that did.
-- Grain:  one row per ds
-- Holds:  a full night stands alone; any other tells what changed since the night based_on_ds
select
    ds,
    run_id,
    config,
    config ->> '$.encoder_sha256' as encoder_sha256,
    coalesce((config ->> '$.is_full')::bool, true) as is_full,
    (config ->> '$.based_on_ds')::date as based_on_ds,
    (config ->> '$.max_vectors')::int as max_vectors,
    config ->> '$.protection.key_check' is not null as is_protected,
    coalesce((config ->> '$.protection.min_items')::int, 1) as min_items,
    coalesce((config ->> '$.protection.item_vectors')::bool, true) and min_items = 1 as keeps_items
from runs
where
    job = 'encode'
    and status = 'done'
    and contains(config, '"published": {')
qualify row_number() over (partition by ds order by started_at desc, run_id desc) = 1
