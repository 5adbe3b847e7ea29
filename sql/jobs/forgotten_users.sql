-- forgotten_users: a user who asked to be forgotten
-- Grain:  one row per user_hmac_sha256, key_check
-- Holds:  user_hmac_sha256 is 64 hexadecimal digits; the id itself is nowhere
select distinct
    config ->> '$.user_hmac_sha256' as user_hmac_sha256,
    config ->> '$.key_check' as key_check
from runs
where job = 'forget' and user_hmac_sha256 is not null
