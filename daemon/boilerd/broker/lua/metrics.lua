-- Add what a process has counted to the metrics of this minute.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, then for each pair of queue and type its name and its record, packed.
-- Returns nothing.
-- Touches: boilerd:metrics:minute:N (HSET, EXPIRE); reads boilerd:metrics:rolled.

local key = minute_key(open_minute(math.floor(now() / 60)))
for i = 3, #ARGV, 2 do merge(key, ARGV[i], unpacked(ARGV[i + 1])) end
call('EXPIRE', key, METRIC_PERIODS.minute[2] + 3600)
