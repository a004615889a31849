-- Forget a worker that is dead and holds nothing any more.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name.
-- Returns nothing.
-- Touches: rq:worker:W, rq:worker:W:executions (DEL), rq:workers, for each of its queues rq:workers:Q (SREM).

local key = RQ .. ':worker:' .. ARGV[3]
for queue in (call('HGET', key, 'queues') or ''):gmatch('[^,]+') do
  call('SREM', RQ .. ':workers:' .. queue, key)
end
call('SREM', RQ .. ':workers', key)
call('DEL', key, key .. ':executions')
