-- Take queues that hold nothing, and that no worker claims from, out of boilerd:queues: schedulers look at each that
-- stands there, several times a minute. The next task of such a queue puts it back.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 where to go on ('0': from the beginning), 4 about how many queues to look at.
-- Returns where to go on; '0' after the last.
-- Touches: boilerd:queues (SREM). Reads for each queue: rq:queue:Q, rq:wip:Q, rq:scheduled:Q, rq:finished:Q, rq:failed:Q,
--   boilerd:aside:Q, boilerd:archived:Q, rq:workers:Q.

local known = OWN .. ':queues'

local function is_idle(queue)
  return call('EXISTS', RQ .. ':queue:' .. queue, RQ .. ':wip:' .. queue, RQ .. ':scheduled:' .. queue,
    RQ .. ':finished:' .. queue, RQ .. ':failed:' .. queue, OWN .. ':aside:' .. queue, OWN .. ':archived:' .. queue,
    RQ .. ':workers:' .. queue) == 0
end

local next_at, queues = unpack(own_call('SSCAN', known, ARGV[3], 'COUNT', ARGV[4]))
for _, queue in ipairs(queues) do
  if is_idle(queue) then call('SREM', known, queue) end
end
return next_at
