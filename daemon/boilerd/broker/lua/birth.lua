-- Register a worker, in place of a predecessor of the same name. The predecessor's claims stay.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 number of queues, then their names, then field names and values
--   of the worker's hash in turn.
-- Returns nothing.
-- Touches: rq:worker:W (DEL, HSET, EXPIRE), rq:workers, rq:workers:Q, boilerd:queues (SADD).

local worker_key, queues = RQ .. ':worker:' .. ARGV[3], tonumber(ARGV[4])
call('DEL', worker_key)
local time = iso(now())
call('HSET', worker_key, 'birth', time, 'last_heartbeat', time, unpack(ARGV, 5 + queues))
call('EXPIRE', worker_key, WORKER_TTL_S)
call('SADD', RQ .. ':workers', worker_key)
for i = 5, 4 + queues do
  call('SADD', RQ .. ':workers:' .. ARGV[i], worker_key)
  own_call('SADD', OWN .. ':queues', ARGV[i])
end
