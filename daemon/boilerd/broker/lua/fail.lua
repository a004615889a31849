-- End a claim with an attempt that failed: the task is tried again later, archived, or dropped.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 job ID, 5 execution ID, 6 queue,
--   7 started (epoch), 8 error in one line, 9 traceback (base64 of zlib),
--   10 verdict: retry, archive or drop, 11 seconds until the retry,
--   12 whether the attempt counts: 1 or 0, 13 how many retries the task has in all,
--   14 seconds to keep it in the archive, 15 how many the archive of a queue may hold,
--   16 whether the claim is taken from a worker that may live and does not know: 1 or 0,
--   17 whether nobody knows that the attempt had begun: 1 or 0; then the task is claimed alone the next time.
-- Returns the verdict that was carried out: archive instead of retry where the task was cancelled; or '' when
--   nothing was written: the lease was gone, or was to be taken and had been renewed; or RQ's tools cancelled or
--   deleted the task while it ran, and the claim was given up.
-- Touches: rq:wip:Q, rq:execution:ID:EID, rq:executions:ID, rq:worker:W:executions, rq:worker:W,
--   rq:job:ID (status, last_error, last_failed_at, number_of_retries, retries_left), rq:results:ID (XADD),
--   boilerd:stats:Q:DAY, boilerd:unique:…, boilerd:running:KEY, boilerd:waiting:KEY, boilerd:called:KEY; for a retry
--   rq:scheduled:Q (ZADD, score = when it is due), rq:queues, boilerd:queues (SADD) and boilerd:alarm; for the
--   archive rq:failed:Q and boilerd:archived:Q (ZADD, score = when it expires), EXPIRE on the job's keys, and beyond
--   the limit rq:job:ID, rq:results:ID (DEL) of the ones that expire first; for a drop rq:job:ID, rq:results:ID (DEL).
--   For both what advance.lua has for jobs of plain RQ that depend on the task.

local worker, job, eid, queue = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local started, verdict, counts = tonumber(ARGV[7]), ARGV[10], ARGV[12] == '1'
local max_retries = tonumber(ARGV[13])
local key = RQ .. ':job:' .. job
local seconds = now()

local claims = RQ .. ':worker:' .. worker .. ':executions'
local claim = job .. ':' .. eid
local lease = is_held(job, eid, queue)
-- Renewed since it was found to have run out: the worker is back, and goes on with its claim.
if ARGV[16] == '1' and lease and tonumber(lease) > seconds then return '' end
if not lease then
  own_call('SREM', claims, claim)
  return ''
end
if not is_started(job, worker) then
  drop_claim(job, eid, queue, worker)
  return ''
end
-- Somebody cancelled it meanwhile: it is not tried again, whatever became of the attempt.
if verdict == 'retry' and call('HEXISTS', key, 'cancel_requested') == 1 then verdict, counts = 'archive', true end
if verdict ~= 'drop' then
  call('HSET', key, 'last_error', ARGV[8], 'last_failed_at', iso(seconds))
  record(job, eid, worker, 2, started, seconds, 'exc_string', ARGV[9])
end
if ARGV[17] == '1' then call('HSET', key, 'alone', 1) end
-- How many retries it has is known from now on, but for a job of plain RQ that was refused: that keeps its own.
if verdict == 'retry' or verdict == 'archive' and call('HEXISTS', key, 'task_type') == 1 then
  -- A client of plain RQ may have written anything there, such as '+1'.
  local found = tostring(call('HGET', key, 'number_of_retries')):match('^%+?(%d+)$')
  local retried = math.min(tonumber(found) or 0, 2147483646)
  if verdict == 'retry' and counts then
    retried = retried + 1
    call('HSET', key, 'number_of_retries', retried)
  end
  call('HSET', key, 'retries_left', whole(math.max(max_retries - retried, 0)))
end
if verdict == 'retry' then
  own_call('ZCARD', RQ .. ':scheduled:' .. queue) -- an outcome must get somewhere, an enqueue may fail
  schedule(queue, job, seconds + tonumber(ARGV[11]), seconds)
elseif verdict == 'archive' then
  archive(queue, job, seconds, tonumber(ARGV[14]), tonumber(ARGV[15]))
end
drop_claim(job, eid, queue, worker)
-- Its heartbeat finds it there, and the worker hears that it lost the lease.
local is_registered = call('TYPE', RQ .. ':worker:' .. worker).ok == 'hash'
if ARGV[16] == '1' and is_registered then
  own_call('SADD', claims, claim)
  call('EXPIRE', claims, KEPT)
end
if verdict == 'drop' then
  call_dependents(job, seconds, true)
  delete(job)
end
if counts or verdict ~= 'retry' then count(queue, seconds, 1, counts and 1 or 0) end
if is_registered then
  count_on_worker(worker, counts and 'failed_job_count' or 'successful_job_count', 1, seconds - started)
end
return verdict
