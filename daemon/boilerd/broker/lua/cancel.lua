-- Cancel a task: one that waits is deleted; one that runs is marked, and its worker gets RQ's stop-job command.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 the command for the worker, as JSON, 4 to 7 who does it, as audit.lua has
--   it, 8 job ID.
-- Returns 'deleted'; 'told' (it runs, and the command was sent); 'ended' (it is completed or archived); or 'unknown'; and
--   behind that why the audit has no entry, '' where it has one or needs none.
-- Touches: rq:job:ID (DEL, or cancel_requested), rq:results:ID (DEL), rq:queue:Q (LREM), rq:scheduled:Q (ZREM),
--   boilerd:waiting:KEY, boilerd:aside:Q, boilerd:called:KEY (ZREM), boilerd:unique:… (DEL); boilerd:audit;
--   publishes to rq:pubsub:WORKER.

local job = ARGV[8]

local function cancel()
  local job_key = RQ .. ':job:' .. job
  if call('TYPE', job_key).ok ~= 'hash' then return 'unknown' end
  local fields = call('HMGET', job_key, 'status', 'origin', 'worker_name', 'concurrency_key')
  local status, queue, key = fields[1], fields[2] or '', fields[4]

  if status == 'started' then
    -- It changes nothing, for a job that runs has no TTL. Whoever may only enqueue has HSET for that, and not this right.
    call('PERSIST', job_key)
    call('HSET', job_key, 'cancel_requested', 1)
    -- Redis' default allows a user no channel: then the worker hears of it with the next heartbeat.
    redis.pcall('PUBLISH', RQ .. ':pubsub:' .. (fields[3] or ''), ARGV[3])
    return 'told'
  end
  local removed = count_removed('ZREM', RQ .. ':scheduled:' .. queue, job)
  if key then
    removed = removed + stop_waiting(queue, key, job)
    count_removed('ZREM', OWN .. ':called:' .. key, job)
  end
  -- Last, because it walks the queue.
  if removed == 0 then removed = unlist(queue, job) end
  if removed == 0 then return 'ended' end
  delete(job)
  if key then call_waiting(key, now()) end
  return 'deleted'
end

local answer = cancel()
return {answer, note_answer(4, 'cancel', answer) or ''}
