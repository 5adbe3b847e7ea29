-- answer_facts: how the answers of a kind ended in a night
-- Grain:  one row per kind
-- Params: $ds (DATE, null: the newest night)
-- Holds:  answer_count >= empty_count, length_count; a text repeats itself if most of its 8 or more words came before
with answers as (
    select
        kind,
        output,
        finish_reason,
        is_shortened,
        output_tokens,
        score,
        string_split(trim(output), ' ') as words
    from outputs
    where ds = coalesce($ds, (select max(every.ds) from outputs as every))
)

select
    kind,
    count(*) as answer_count,
    count(*) filter (where trim(output) = '') as empty_count,
    count(*) filter (where finish_reason = 'length') as length_count,
    count(*) filter (where len(words) >= 8 and 2 * list_unique(words) <= len(words)) as repeating_count,
    count(*) filter (where is_shortened) as shortened_count,
    avg(output_tokens) as mean_output_tokens,
    avg(score) as mean_score
from answers
group by kind
order by kind
