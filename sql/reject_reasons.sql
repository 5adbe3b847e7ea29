-- reject_reasons: why rows of a night were refused, the most frequent reason first, with one example.
-- Grain:  one row per ds, job, source, reason
-- Reads:  rejects
-- Params: $ds (DATE, default null: every night)
-- Holds:  reject_count >= user_count
select
    ds,
    job,
    source,
    reason,
    count(*) as reject_count,
    count(distinct user_id) as user_count,
    min(row_id) as example_row_id,
    arg_min(detail, row_id) as example_detail
from rejects
where $ds is null or ds = $ds
group by ds, job, source, reason
order by ds asc, reject_count desc, job asc, source asc, reason asc
