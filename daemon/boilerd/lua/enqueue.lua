-- Store new tasks and make them pending, each only if its ID is free.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, then for each task:
--   job ID, queue name, n, and n field names and values of the job hash in turn.
-- Returns one number a task: 1 stored, 0 the ID is taken.
-- Touches for each task: rq:job:ID (HSET status created_at enqueued_at … and the given fields),
--   rq:queues (SADD), rq:queue:Q (RPUSH), boilerd:bell:Q (RPUSH).

local seconds = now()
local time = iso(seconds)
local answers, known = {}, {}
local i = 3
while i <= #ARGV do
  local id, queue, n = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local key = RQ .. ':job:' .. id
  if call('EXISTS', key) == 1 then
    answers[#answers + 1] = 0
  else
    call('HSET', key, 'status', 'queued', 'created_at', time, 'enqueued_at', time, unpack(ARGV, i + 3, i + 2 + n))
    if not known[queue] then
      known[queue] = true
      call('SADD', RQ .. ':queues', RQ .. ':queue:' .. queue)
    end
    call('RPUSH', RQ .. ':queue:' .. queue, id)
    ring(queue)
    answers[#answers + 1] = 1
  end
  i = i + 3 + n
end
return answers
