-- Keep what a daemon tells of itself for another minute, or write it.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 name of the daemon, 4 how many bytes it tells, 5 what it tells (JSON); without it,
--   what is there is kept.
-- Returns 1 if it is there now; 0 if it is not, as after FLUSHALL, and must be sent.
-- Touches: boilerd:daemon:NAME (string; expires), boilerd:daemons (sorted set: name, score = when it told last; names
--   that have not told for as long are taken out, and it expires with the last of them).

local key, daemons = OWN .. ':daemon:' .. ARGV[3], OWN .. ':daemons'
local seconds = now()
if ARGV[5] then
  call('SET', key, ARGV[5], 'EX', DAEMON_TTL_S)
else
  -- A key of another kind, or a stranger's string, has another length.
  if redis.pcall('STRLEN', key) ~= tonumber(ARGV[4]) then return 0 end
  call('EXPIRE', key, DAEMON_TTL_S)
end
own_call('ZADD', daemons, stamp(seconds), ARGV[3])
call('ZREMRANGEBYSCORE', daemons, '-inf', stamp(seconds - DAEMON_TTL_S))
-- Written while Redis's clock was ahead.
call('ZREMRANGEBYSCORE', daemons, stamp(seconds + DAEMON_TTL_S), '+inf')
call('EXPIRE', daemons, DAEMON_TTL_S)
return 1
