-- answer_lengths: how long the answers to each kind of task have been
-- Grain:  one row per kind
-- Holds:  output_tokens is the mean over all nights
select
    kind,
    avg(output_tokens) as output_tokens
from outputs
group by kind
order by kind
