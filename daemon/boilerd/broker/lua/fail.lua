-- End a claim with an attempt that failed: the task is tried again later, archived, or dropped.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 job ID, 5 execution ID, 6 queue,
--   7 started (epoch), 8 error in one line, 9 traceback (base64 of zlib),
--   10 verdict: 'retry', 'archive' or 'drop', 11 seconds until the retry,
--   12 whether the attempt counts: 1 or 0, 13 how many retries the task has in all,
--   14 how many tasks the archive of a queue may hold; 0: any number,
--   15 whether the claim is taken from a worker that may live and does not know: 1 or 0,
--   16 1 if nobody knows whether the attempt had begun, so that the task is a suspect the next time; else 0,
--   17 until when (epoch) the task is tried again, unless an earlier failure of the kind has said so; '': at any time,
--   then, if the failure belongs to a group: 18 its fingerprint, 19 JSON that describes it, 20 the application's release
--   or ''.
-- Returns the verdict that was carried out, 'archive' instead of 'retry' if the task was cancelled, or is too old to be
--   tried again; or '' if nothing was written: the lease was gone; or the claim was to be taken from its worker, which had renewed it; or RQ's tools
--   cancelled or deleted the task while it ran, and the claim was given up.
-- Touches: rq:wip:Q, rq:execution:ID:EID, rq:executions:ID, rq:worker:W:executions, rq:worker:W,
--   rq:job:ID (status, last_error, last_failed_at, fingerprint, number_of_retries, retries_left, runs, retried_until),
--   rq:results:ID (XADD),
--   boilerd:failures, boilerd:failure:FP, boilerd:failure:FP:tasks, boilerd:stats:Q:DAY, boilerd:unique:…, boilerd:running:KEY, boilerd:waiting:KEY, boilerd:called:KEY; for a retry
--   rq:scheduled:Q (ZADD, score = when it is due), rq:queues, boilerd:queues (SADD) and boilerd:alarm; for the
--   archive rq:failed:Q and boilerd:archived:Q (ZADD, score = when it expires), EXPIRE on the job's keys, and beyond
--   the limit rq:job:ID, rq:results:ID (DEL) of the ones that expire first; for a drop rq:job:ID, rq:results:ID (DEL).
--   For both, the keys that advance.lua names for jobs of plain RQ that depend on the task.

local worker, job, eid, queue = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local started, verdict, counts = tonumber(ARGV[7]), ARGV[10], ARGV[12] == '1'
local max_retries, archive_limit = tonumber(ARGV[13]), tonumber(ARGV[14])
local is_taken, is_doubtful = ARGV[15] == '1', ARGV[16] == '1'
local job_key = RQ .. ':job:' .. job
local worker_key = RQ .. ':worker:' .. worker
local claims_key, claim = worker_key .. ':executions', job .. ':' .. eid
local seconds = now()
local fingerprint = ARGV[18] or ''

-- Forget failures that were not seen for so long, and those that are too many: the ones seen the longest time ago.
local function forget_failures(failures)
  call('ZREMRANGEBYSCORE', failures, '-inf', stamp(seconds - FAILURE_TTL_S)) -- their own keys have expired
  while call('ZCARD', failures) > MOST_FAILURES do
    local key = OWN .. ':failure:' .. call('ZPOPMIN', failures)[1]
    call('DEL', key, key .. ':tasks')
  end
end

-- Once an hour for each group: what need not be looked at with each failure.
local function begin_hour(failures, key, hour, day)
  local seen = tonumber(own_call('ZSCORE', failures, fingerprint) or nil)
  if not seen or call('HEXISTS', key, 'about') == 0 then
    call('HSET', key, 'about', ARGV[19], 'first_seen', stamp(seconds), 'first_release', ARGV[20])
  elseif seconds - seen > FAILURE_SILENT_S then
    call('HSET', key, 'returned', stamp(seconds))
  end
  for _, field in ipairs(call('HKEYS', key)) do
    local unit, number = field:match('^([hd])(%d+)$')
    local kept = unit == 'h' and hour - FAILURE_HOURS or day - FAILURE_DAYS
    if unit and tonumber(number) <= kept then call('HDEL', key, field) end
  end
  call('ZADD', failures, stamp(seconds), fingerprint)
  if not seen then forget_failures(failures) end
  for _, kept in ipairs({failures, key, key .. ':tasks'}) do call('EXPIRE', kept, FAILURE_TTL_S) end
end

-- A new release has failed: keep the counts of so many, without the one in which it failed least.
local function forget_releases(key)
  local found, least, number = 0, nil, nil
  for _, field in ipairs(call('HKEYS', key)) do
    if field:sub(1, 2) == 'v:' then
      found = found + 1
      local count = tonumber(call('HGET', key, field)) or 0
      if field ~= 'v:' .. ARGV[20] and (not number or count < number) then least, number = field, count end
    end
  end
  if found > FAILURE_RELEASES then call('HDEL', key, least) end
end

-- Count the failure in its group.
local function count_failure()
  local failures, key = OWN .. ':failures', OWN .. ':failure:' .. fingerprint
  local hour, day = math.floor(seconds / 3600), math.floor(seconds / 86400)
  for _, field in ipairs({'count', 'd' .. whole(day)}) do own_call('HINCRBY', key, field, 1) end
  local is_first = own_call('HINCRBY', key, 'h' .. whole(hour), 1) == 1
  if ARGV[20] ~= '' then
    call('HSET', key, 'last_release', ARGV[20])
    if own_call('HINCRBY', key, 'v:' .. ARGV[20], 1) == 1 then forget_releases(key) end
  end
  local samples = own_call('LPUSH', key .. ':tasks', job)
  if samples > 2 * FAILURE_SAMPLES then call('LTRIM', key .. ':tasks', 0, FAILURE_SAMPLES - 1) end
  if is_first or samples == 1 then
    begin_hour(failures, key, hour, day)
  else
    redis.pcall('ZADD', failures, 'XX', stamp(seconds), fingerprint)
  end
end

local lease = is_held(job, eid, queue)
-- The lease was renewed after it was found to have run out: the worker is back, and goes on with its claim.
if is_taken and lease and lease > seconds then return '' end
if not lease then
  own_call('SREM', claims_key, claim)
  return ''
end
if not is_started(job, worker) then
  drop_claim(job, eid, queue, worker)
  return ''
end
-- Somebody cancelled the task meanwhile: it is not tried again, whatever became of the attempt.
if verdict == 'retry' and call('HEXISTS', job_key, 'cancel_requested') == 1 then verdict, counts = 'archive', true end
if verdict == 'retry' and ARGV[17] ~= '' then
  call('HSETNX', job_key, 'retried_until', ARGV[17])
  -- A foreign value may stand there.
  if seconds > (tonumber(call('HGET', job_key, 'retried_until')) or tonumber(ARGV[17])) then
    verdict = 'archive'
    call('HDEL', job_key, 'retried_until') -- whoever has it run again knows that workers take it now
  end
end
if verdict ~= 'drop' then
  call('HSET', job_key, 'last_error', ARGV[8], 'last_failed_at', iso(seconds), 'fingerprint', fingerprint)
  record(job, eid, worker, 2, started, seconds, 'exc_string', ARGV[9])
end
if is_doubtful then
  suspect(job)
elseif verdict ~= 'drop' then
  redis.pcall('HINCRBY', job_key, 'runs', 1) -- a foreign value may stand there
end
-- From now on the job hash says how many retries are left. A job of plain RQ that was refused keeps its own number.
if verdict == 'retry' or verdict == 'archive' and call('HEXISTS', job_key, 'task_type') == 1 then
  -- A client of plain RQ may have written anything there, such as '+1'.
  local found = tostring(call('HGET', job_key, 'number_of_retries')):match('^%+?(%d+)$')
  local retried = math.min(tonumber(found) or 0, MOST_RETRIES - 1)
  if verdict == 'retry' and counts then
    retried = retried + 1
    call('HSET', job_key, 'number_of_retries', retried)
  end
  call('HSET', job_key, 'retries_left', whole(math.max(max_retries - retried, 0)))
end
if verdict == 'retry' then
  own_call('ZCARD', RQ .. ':scheduled:' .. queue) -- unlike an enqueue, an outcome must not fail
  schedule(queue, job, seconds + tonumber(ARGV[11]), seconds)
elseif verdict == 'archive' then
  archive(queue, job, seconds, archive_limit)
end
drop_claim(job, eid, queue, worker)
-- The next heartbeat finds the claim without its lease, and the worker hears that it lost it.
local is_registered = call('TYPE', worker_key).ok == 'hash'
if is_taken and is_registered then
  own_call('SADD', claims_key, claim)
  call('EXPIRE', claims_key, CLAIMS_TTL_S)
end
if verdict == 'drop' then
  call_dependents(job, seconds, true)
  delete(job)
end
if fingerprint ~= '' then count_failure() end
if counts or verdict ~= 'retry' then count(queue, seconds, 1, counts and 1 or 0) end
if is_registered then
  count_on_worker(worker, counts and 'failed_job_count' or 'successful_job_count', 1, seconds - started)
end
return verdict
