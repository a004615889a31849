-- Note how a worker ended.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 what is known of it, as an object in JSON that has at least one field.
-- Returns nothing.
-- Touches: boilerd:deaths (LPUSH, LTRIM; expires).

local key = OWN .. ':deaths'
own_call('LPUSH', key, '{"at":' .. stamp(now()) .. ',' .. ARGV[3]:sub(2))
call('LTRIM', key, 0, MOST_DEATHS - 1)
call('EXPIRE', key, DEATHS_TTL_S)
