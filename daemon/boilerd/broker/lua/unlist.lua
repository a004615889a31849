-- Take a queue that holds nothing out of the lists of queues, with what was noted of it.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 queue.
-- Returns 1, or 0 if it holds a task, or one that RQ's tools deferred or cancelled.
-- Touches: rq:queues, boilerd:queues (SREM), boilerd:completed:Q, boilerd:bell:Q (DEL). Reads: rq:queue:Q, rq:wip:Q,
--   rq:scheduled:Q, rq:finished:Q, rq:failed:Q, rq:deferred:Q, rq:canceled:Q, boilerd:aside:Q.

local queue = ARGV[3]
if call('EXISTS', RQ .. ':queue:' .. queue, RQ .. ':wip:' .. queue, RQ .. ':scheduled:' .. queue,
  RQ .. ':finished:' .. queue, RQ .. ':failed:' .. queue, RQ .. ':deferred:' .. queue, RQ .. ':canceled:' .. queue,
  OWN .. ':aside:' .. queue) > 0 then return 0 end
redis.pcall('SREM', RQ .. ':queues', RQ .. ':queue:' .. queue)
own_call('SREM', OWN .. ':queues', queue)
call('DEL', OWN .. ':completed:' .. queue, OWN .. ':bell:' .. queue)
return 1
