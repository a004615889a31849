-- Cancel a task: one that waits is deleted; one that runs is marked, and its worker told.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 job ID, 4 the command for the worker, RQ's stop-job as JSON.
-- Returns 'deleted', 'told', 'ended' (it is completed or archived), or 'unknown'.
-- Touches: rq:job:ID (DEL, or cancel_requested), rq:results:ID (DEL), rq:queue:Q (LREM), rq:scheduled:Q (ZREM),
--   boilerd:waiting:KEY, boilerd:called:KEY (ZREM), boilerd:unique:… (DEL); publishes to rq:pubsub:WORKER.

local job = ARGV[3]
local key = RQ .. ':job:' .. job
if call('TYPE', key).ok ~= 'hash' then return 'unknown' end
local fields = call('HMGET', key, 'status', 'origin', 'worker_name', 'concurrency_key')
local status, queue = fields[1], fields[2] or ''

if status == 'started' then
  call('HSET', key, 'cancel_requested', 1)
  -- A user may be allowed no channel, as Redis' default has it: the worker hears of it with the next heartbeat.
  redis.pcall('PUBLISH', RQ .. ':pubsub:' .. (fields[3] or ''), ARGV[4])
  return 'told'
end
local gone = count_removed('ZREM', RQ .. ':scheduled:' .. queue, job)
  + count_removed('LREM', RQ .. ':queue:' .. queue, 0, job)
if fields[4] then
  gone = gone + count_removed('ZREM', OWN .. ':waiting:' .. fields[4], job)
  count_removed('ZREM', OWN .. ':called:' .. fields[4], job)
end
if gone == 0 then return 'ended' end
delete(job)
if fields[4] then call_waiting(fields[4], now()) end
return 'deleted'
