-- first_history: the first night of ingestion
-- Grain:  one row
-- Reads:  histories
-- Params: none
-- Holds:  ds is null where there are no histories
select min(ds) as ds
from histories
