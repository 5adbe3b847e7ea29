-- answer_histogram: how sure and how long answers are, counted in steps
-- Grain:  one row per kind, score_step, output_tokens
-- Params: $ds (DATE)
-- Holds:  score_step = exp(score) in twentieths, 1.0 for a sure answer
select
    kind,
    floor(exp(score) * 20) / 20 as score_step,
    output_tokens,
    count(*) as answer_count
from outputs
where ds = $ds
group by kind, score_step, output_tokens
order by kind, score_step, output_tokens
