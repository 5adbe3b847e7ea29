-- forgotten_users: a user who asked to be forgotten
-- Grain:  one row per user_hmac_sha256
-- Reads:  runs
-- Params: none
-- Holds:  user_hmac_sha256 is 64 hexadecimal digits; the id itself is nowhere
select distinct config ->> '$.user_hmac_sha256' as user_hmac_sha256
from runs
where
    job = 'forget'
    and user_hmac_sha256 is not null
