-- Store new tasks, each only if its ID is free, its unique lock is too, and its queue has room.
-- They become pending, or scheduled where they are due later.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, then for each task:
--   job ID, queue name, due in seconds ('' or a number; 0 now), due at (epoch; '' for none),
--   unique lock ('' for none), its TTL in seconds, whether it lasts until then in any case: 1 or 0,
--   n, and n field names and values of the job hash in turn.
-- Returns for each task: 1 pending, 2 scheduled, 0 the ID is taken, -1 the queue is full, or the ID
--   of the task that holds the unique lock.
-- Touches for each task: rq:job:ID (HSET status created_at enqueued_at … and the given fields),
--   rq:queues, boilerd:queues (SADD), and rq:queue:Q (RPUSH), boilerd:bell:Q (RPUSH) or rq:scheduled:Q (ZADD),
--   boilerd:alarm (RPUSH); boilerd:unique:… (SET PX; the task's ID, behind 'ttl:' where the lock lasts); reads
--   boilerd:limits.

local answers, i = {}, 3
while i <= #ARGV do
  answers[#answers + 1], i = store(i)
end
return answers
