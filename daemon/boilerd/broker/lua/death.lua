-- Forget a worker that is dead and holds no claim any more.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name.
-- Returns nothing.
-- Touches: rq:worker:W, rq:worker:W:executions (DEL), rq:workers, for each of its queues rq:workers:Q (SREM).

local worker_key = RQ .. ':worker:' .. ARGV[3]
for queue in (call('HGET', worker_key, 'queues') or ''):gmatch('[^,]+') do
  call('SREM', RQ .. ':workers:' .. queue, worker_key)
end
call('SREM', RQ .. ':workers', worker_key)
call('DEL', worker_key, worker_key .. ':executions')
