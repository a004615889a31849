-- Store new tasks, each only if its ID is free and not remembered, its unique lock is free, and its queue has room.
-- They become pending, or scheduled if they are due later.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, then the tasks: store.lua says how each is described; behind them, on request,
--   the name of a queue to tell of.
-- Returns for each task STORED_PENDING, STORED_SCHEDULED, ID_TAKEN, ID_REMEMBERED, QUEUE_FULL, or the ID of the task
--   that holds the unique lock; and UNSERVED behind these where workers are registered, but none of them for that queue.
-- Touches for each task: rq:job:ID (HSET status created_at enqueued_at … and the given fields),
--   rq:queues, boilerd:queues (SADD), and rq:queue:Q (RPUSH), boilerd:bell:Q (RPUSH) or rq:scheduled:Q (ZADD),
--   boilerd:alarm (RPUSH); boilerd:unique:… (SET PX; the task's ID, behind 'ttl:' where the lock lasts), boilerd:once:ID (SET NX PX); reads
--   boilerd:limits, boilerd:aside:Q, rq:workers:Q, rq:workers; boilerd:metrics:enqueued (HINCRBY, EXPIRE).

local answers, i = {}, 3
while i < #ARGV do
  answers[#answers + 1], i = store(i)
end
count_stored()
-- Not call(): a client may have no right to these keys, and then nothing is known.
local workers = RQ .. ':workers'
if i == #ARGV and redis.pcall('EXISTS', workers .. ':' .. ARGV[i]) == 0 and redis.pcall('EXISTS', workers) == 1 then
  answers[#answers + 1] = UNSERVED
end
return answers
