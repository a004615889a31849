-- Store new tasks, each only if its ID is free, its unique lock is too, and its queue has room.
-- They become pending, or scheduled if they are due later.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, then the tasks: store.lua says how each is described.
-- Returns for each task STORED_PENDING, STORED_SCHEDULED, ID_TAKEN, QUEUE_FULL, or the ID of the task that holds the
--   unique lock.
-- Touches for each task: rq:job:ID (HSET status created_at enqueued_at … and the given fields),
--   rq:queues, boilerd:queues (SADD), and rq:queue:Q (RPUSH), boilerd:bell:Q (RPUSH) or rq:scheduled:Q (ZADD),
--   boilerd:alarm (RPUSH); boilerd:unique:… (SET PX; the task's ID, behind 'ttl:' where the lock lasts); reads
--   boilerd:limits, boilerd:aside:Q.

local answers, i = {}, 3
while i <= #ARGV do
  answers[#answers + 1], i = store(i)
end
return answers
