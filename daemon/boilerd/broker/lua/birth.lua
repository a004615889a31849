-- Register a worker, in place of a predecessor of the same name. What that one held stays.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 seconds to keep the record,
--   5 number of queues, then their names, then field names and values of the record in turn.
-- Returns nothing.
-- Touches: rq:worker:W (DEL, HSET, EXPIRE), rq:workers, rq:workers:Q, boilerd:queues (SADD).

local key, queues = RQ .. ':worker:' .. ARGV[3], tonumber(ARGV[5])
call('DEL', key)
local time = iso(now())
call('HSET', key, 'birth', time, 'last_heartbeat', time, unpack(ARGV, 6 + queues))
call('EXPIRE', key, ARGV[4])
call('SADD', RQ .. ':workers', key)
for i = 6, 5 + queues do
  call('SADD', RQ .. ':workers:' .. ARGV[i], key)
  own_call('SADD', OWN .. ':queues', ARGV[i])
end
