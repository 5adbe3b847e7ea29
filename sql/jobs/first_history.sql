-- first_history: the first and the last night of ingestion
-- Grain:  one row
-- Holds:  both are null where there are no histories
select
    min(ds) as ds,
    max(ds) as last_ds
from histories
