-- Functions of the scripts that claim tasks and end claims; scripts.py puts this file behind common.lua.

-- How many members a command removed; none from a key of another kind.
local function count_removed(...)
  local answer = redis.pcall(...)
  if type(answer) == 'number' then return answer end
  -- Any other error, such as one of permissions, says nothing about the key, and is raised again.
  if answer.err and not answer.err:find('WRONGTYPE', 1, true) then return call(...) end
  return 0
end

-- Take a pending job off its queue's list; 1, or 0 if it is not there. LREM walks the list, so it begins at the end that
-- is nearer by the time of the enqueue; where that is wrong, it only takes longer.
local function unlist(queue, job)
  local key = RQ .. ':queue:' .. queue
  local middle = redis.pcall('LINDEX', key, math.floor(count_removed('LLEN', key) / 2))
  local first = type(middle) == 'string' and fields_of(RQ .. ':job:' .. middle, 'enqueued_at')[1]
  local own = first and fields_of(RQ .. ':job:' .. job, 'enqueued_at')[1]
  return count_removed('LREM', key, own and own > first and -1 or 1, job)
end

-- Whether a key is of the kind that it should be, or free. A foreign value may stand there, and a command that fails
-- half-way through a script would leave a task nowhere.
local function is_kind(key, kind)
  local found = call('TYPE', key).ok
  return found == kind or found == 'none'
end

-- A whole number as text, at most the largest from which one can be taken: Redis itself writes large ones as 1e+17
-- (7.0) or 1e+21, which nobody reads as whole numbers.
local function whole(number)
  return string.format('%.0f', math.min(number, 2^53))
end

-- Seconds for which Redis keeps a worker's set of claims, the records of its attempts, and the running and called tasks
-- of a concurrency key, after the last heartbeat: longer than an outage takes, so that the next heartbeat finds what it
-- renews, and RQ's tools, which take claims without such a record out of the set, find it too. Whether a lease still
-- holds is another question, which its score in rq:wip:Q answers.
local CLAIMS_TTL_S = 86400

-- Have the record of a worker tell that it lives; and its resident bytes and milliseconds of CPU, where these are known.
local function show_life(worker_key, time, rss, cpu_ms)
  if rss == '' then
    redis.pcall('HSET', worker_key, 'last_heartbeat', time)
  else
    redis.pcall('HSET', worker_key, 'last_heartbeat', time, 'rss', rss, 'cpu_ms', cpu_ms)
  end
end

-- A slice of the queues that boilerd serves: those that its tasks were ever in, and those in ARGV from `first` on. There
-- may be any number of them, and Redis serves nobody else while a script runs.
-- `cursor`: '0' for the first slice, then what came with the one before.
-- Returns the names, and the cursor of the next slice: '0' after the last.
local function served(cursor, first)
  local next_cursor, found = unpack(own_call('SSCAN', OWN .. ':queues', cursor, 'COUNT', SLICE))
  local names, is_known = {}, {}
  for i = first, #ARGV do
    is_known[ARGV[i]] = true
    if cursor == '0' then names[#names + 1] = ARGV[i] end
  end
  for _, name in ipairs(found) do
    if not is_known[name] then names[#names + 1] = name end
  end
  return names, next_cursor
end

-- Those of the queues for which one of the keys is there that begin so: of very many queues most are idle.
local function with_any(queues, ...)
  local found = {}
  for _, queue in ipairs(queues) do
    local names = {...}
    for i, beginning in ipairs(names) do names[i] = beginning .. queue end
    if call('EXISTS', unpack(names)) > 0 then found[#found + 1] = queue end
  end
  return found
end

local function stats_key(queue, seconds)
  return OWN .. ':stats:' .. queue .. ':' .. math.floor(seconds / 86400)
end

-- Counters of a queue and day: hash boilerd:stats:Q:DAY with processed, failed, and dropped by the limit of the archive;
-- DAY counts from 1970-01-01. Kept 90 days.
local function count(queue, seconds, processed, failed)
  local key = stats_key(queue, seconds)
  if own_call('HINCRBY', key, 'processed', processed) == processed then call('EXPIRE', key, 90 * 86400) end
  if failed > 0 then own_call('HINCRBY', key, 'failed', failed) end
end

-- Make a task pending; a task that was claimed before goes to the head of its queue.
local function push(queue, job, is_head)
  call('HSET', RQ .. ':job:' .. job, 'status', 'queued')
  local waiting = call(is_head and 'LPUSH' or 'RPUSH', RQ .. ':queue:' .. queue, job)
  note_queue(queue)
  ring(queue, waiting)
end

-- Whether the status and the worker of a job hash say that the task runs, and with that worker: if RQ's tools deleted
-- a task while it ran, another of its ID may run elsewhere by now.
local function runs_with(worker, status, name)
  return status == 'started' and (not name or name == '' or name == worker)
end

-- Whether the job hash says that its task runs, with that worker if one is named. If not, RQ's tools cancelled or
-- deleted it while it ran: it must not come back, as a hash without its call, or beside the job that RQ made of it.
local function is_started(job, worker)
  local fields = fields_of(RQ .. ':job:' .. job, 'status', 'worker_name')
  return runs_with(worker or fields[2], fields[1], fields[2])
end

-- Note that a worker died which had the task among others, and that this counts as no failed attempt. It is claimed in no
-- batch any more, and what serve.lua does with it depends on how often that was.
local function suspect(job)
  local answer = redis.pcall('HINCRBY', RQ .. ':job:' .. job, 'alone', 1)
  if type(answer) == 'table' then call('HSET', RQ .. ':job:' .. job, 'alone', 1) end -- a foreign value stood there
end

-- Release the unique lock, as its task asked: after 'success' only, or after any end. A lock that expired and was
-- taken by another task stays. `lock`: the job's unique_key and unique_until, if the caller has read them.
local function unlock(job, is_success, lock)
  lock = lock or fields_of(RQ .. ':job:' .. job, 'unique_key', 'unique_until')
  if lock[1] and (lock[2] == 'end' or lock[2] == 'success' and is_success) and redis.pcall('GET', lock[1]) == job then
    call('DEL', lock[1])
  end
end

-- How many tasks run under the key. The recoverer gives back a share whose lease ran out; here only those are given
-- back whose task does not run any more, because its job was deleted meanwhile.
local function running_under(key, seconds)
  local running = OWN .. ':running:' .. key
  for _, job in ipairs(own_call('ZRANGEBYSCORE', running, '-inf', stamp(seconds))) do
    if not is_started(job) then call('ZREM', running, job) end
  end
  return call('ZCARD', running)
end

-- How many tasks a task lets run under its key, itself included: 1 if that is no number. Nil if the number is below 1,
-- as plain RQ's clients may write it: such a task could never run, so it needs no share, and its worker archives it.
local function shares(limit)
  local most = tonumber(limit or 1) or 1
  return most >= 1 and most or nil
end

-- A task that waits for a share of its concurrency key stands in two sets, score = when it first stepped aside:
-- boilerd:waiting:KEY says whose turn it is, boilerd:aside:Q how many of the queue's tasks wait, and which.
local function step_aside(queue, key, job, place)
  own_call('ZADD', OWN .. ':waiting:' .. key, 'NX', place, job)
  own_call('ZADD', OWN .. ':aside:' .. queue, 'NX', place, job)
  own_call('SADD', OWN .. ':keys', key)
end

-- The task does not wait any more; how many did, 1 or 0. `queue`: nil where RQ's tools deleted the job; then the
-- recoverer finds the ID in boilerd:aside:Q.
local function stop_waiting(queue, key, job)
  if queue then count_removed('ZREM', OWN .. ':aside:' .. queue, job) end
  return count_removed('ZREM', OWN .. ':waiting:' .. key, job)
end

-- Call the tasks that have waited longest for a share of the concurrency key, that is, make them pending: as many as
-- there is room for beside those that run, and those that were called earlier and are not claimed yet. They go to the
-- heads of their queues, behind those that were called earlier. Nothing is reserved for them: one that comes too late
-- waits again, in its old place.
-- boilerd:waiting:KEY and boilerd:called:KEY: zsets, score = when the task first stepped aside.
local function call_waiting(key, seconds)
  local waiting, called = OWN .. ':waiting:' .. key, OWN .. ':called:' .. key
  if own_call('ZCARD', waiting) == 0 then
    own_call('SREM', OWN .. ':keys', key)
    return
  end
  local taken, last, is_paused = running_under(key, seconds), {}, {}
  -- A task of a paused queue is not claimed soon; the next is called as well.
  local function count_in(queue)
    if is_paused[queue] == nil then is_paused[queue] = redis.pcall('SISMEMBER', OWN .. ':paused', queue) == 1 end
    if not is_paused[queue] then taken = taken + 1 end
  end
  for _, job in ipairs(own_call('ZRANGE', called, -1000, -1)) do
    local fields = fields_of(RQ .. ':job:' .. job, 'status', 'origin')
    if fields[1] == 'queued' and fields[2] then
      count_in(fields[2])
      last[fields[2]] = job
    else
      call('ZREM', called, job) -- it ended before it was claimed
    end
  end
  local passed = 0
  for _ = 1, 100 do
    local job, place = unpack(call('ZRANGE', waiting, passed, passed, 'WITHSCORES'))
    if not job then break end
    local fields = fields_of(RQ .. ':job:' .. job, 'status', 'origin', 'concurrency_limit')
    -- No queue: RQ's tools cancelled or deleted the task.
    local queue = fields[1] == 'queued' and fields[2]
    if queue and taken >= (shares(fields[3]) or math.huge) then break end
    local list = RQ .. ':queue:' .. (queue or '')
    if not queue then
      stop_waiting(fields[2], key, job)
    elseif not is_kind(list, 'list') then
      passed = passed + 1
    else
      stop_waiting(queue, key, job)
      own_call('ZADD', called, place, job)
      call('EXPIRE', called, CLAIMS_TTL_S)
      call('HSET', RQ .. ':job:' .. job, 'ready_at', stamp(seconds))
      local length = last[queue] and call('LINSERT', list, 'AFTER', last[queue], job) or 0
      if length < 1 then length = call('LPUSH', list, job) end
      last[queue] = job
      count_in(queue)
      note_queue(queue)
      ring(queue, length)
    end
  end
  if call('ZCARD', waiting) == 0 then own_call('SREM', OWN .. ':keys', key) end
end

-- Give back a task's share of its concurrency key.
local function leave_key(job, key, seconds)
  own_call('ZREM', OWN .. ':running:' .. key, job)
  call_waiting(key, seconds)
end

-- The score of a claim in rq:wip:Q, from the end of its lease. The offset keeps it from RQ's tools, which end all claims
-- with scores from 0 to their own host's clock.
local function lease_score(ends)
  return stamp(LEASE_OFFSET_S + ends)
end

-- The end of the claim's lease, if it is still held. If not, another process owns the task by now, and the caller must
-- not touch it.
local function is_held(job, execution, queue)
  local score = tonumber(redis.pcall('ZSCORE', RQ .. ':wip:' .. queue, job .. ':' .. execution))
  -- Workers of plain RQ write no offset, nor did earlier ones of boilerd.
  return score and (score < LEASE_OFFSET_S and score or score - LEASE_OFFSET_S)
end

-- The concurrency key of a claim. It is looked for in two places: RQ's tools may have deleted the job, and the record
-- of the attempt may have expired.
local function key_of(job, claim)
  return fields_of(RQ .. ':execution:' .. claim, 'concurrency_key')[1]
    or fields_of(RQ .. ':job:' .. job, 'concurrency_key')[1]
end

-- Renew what RQ's tools see of an attempt that runs, and its share of a concurrency key; the key of RQ's record of it.
local function renew_records(worker, job, eid, key, seconds, time)
  local execution_key = RQ .. ':execution:' .. job .. ':' .. eid
  if own_call('HSETNX', execution_key, 'created_at', stamp(seconds)) == 1 then
    -- It expired while nobody renewed it, as in a long outage; the timeout counts from here.
    call('HSET', execution_key, 'id', eid, 'job_id', job, 'worker_name', worker)
    if key then call('HSET', execution_key, 'concurrency_key', key) end
  end
  call('HSET', execution_key, 'last_heartbeat', stamp(seconds))
  call('EXPIRE', execution_key, CLAIMS_TTL_S)
  own_call('ZADD', RQ .. ':executions:' .. job, stamp(seconds + CLAIMS_TTL_S), eid)
  call('EXPIRE', RQ .. ':executions:' .. job, CLAIMS_TTL_S)
  if key then
    own_call('ZADD', OWN .. ':running:' .. key, stamp(seconds + LEASE_S), job)
    call('EXPIRE', OWN .. ':running:' .. key, CLAIMS_TTL_S)
  end
  call('HSET', RQ .. ':job:' .. job, 'last_heartbeat', time)
  return execution_key
end

-- Give up the claim: last in a script, so that an error before it leaves the task claimed and not nowhere (Lua does
-- not roll back).
local function drop_claim(job, execution, queue, worker)
  local claim = job .. ':' .. execution
  local key = key_of(job, claim)
  if key then leave_key(job, key, now()) end
  own_call('SREM', RQ .. ':worker:' .. worker .. ':executions', claim)
  call('DEL', RQ .. ':execution:' .. claim)
  own_call('ZREM', RQ .. ':executions:' .. job, execution)
  call('ZREM', RQ .. ':wip:' .. queue, claim)
end

-- Whether all jobs on which a job of plain RQ depends have completed, or failed if it allows that. A job that is gone
-- counts as completed, and so does `done`. These are RQ's rules, as of Job.dependencies_are_met (3.0).
local function are_dependencies_met(job, done, allows_failures)
  for _, id in ipairs(own_call('SMEMBERS', RQ .. ':job::' .. job .. ':dependencies')) do
    local status = id ~= done and fields_of(RQ .. ':job:' .. id, 'status')[1]
    if status and status ~= 'finished' and not (status == 'failed' and allows_failures) then return false end
  end
  return true
end

-- After a task's end, make those jobs of plain RQ pending that waited for it, and for nothing else. The others stay in
-- its list, which lives as long as the task. Nothing here may fail: the claim may be given up already.
-- `is_done`: the task completed, although its job hash does not say so.
local function call_dependents(job, seconds, is_done)
  local dependents = RQ .. ':job:' .. job .. ':dependents'
  for _, id in ipairs(own_call('SMEMBERS', dependents)) do
    local key = RQ .. ':job:' .. id
    local fields = fields_of(key, 'status', 'origin', 'allow_dependency_failures', 'enqueue_at_front', 'ttl')
    local queue = fields[1] == 'deferred' and fields[2]
    if queue and are_dependencies_met(id, is_done and job, fields[3] == '1') then
      call('SREM', dependents, id)
      call('DEL', RQ .. ':job::' .. id .. ':dependencies')
      redis.pcall('ZREM', RQ .. ':deferred:' .. queue, id)
      call('HSET', key, 'enqueued_at', iso(seconds))
      -- The TTL begins again, as in RQ; a client of plain RQ may have written anything there.
      if (tonumber(fields[5]) or 0) > 0 then redis.pcall('EXPIRE', key, fields[5]) end
      own_call('LLEN', RQ .. ':queue:' .. queue) -- the task must not end nowhere
      push(queue, id, fields[4] == '1')
    end
  end
  local ttl = call('TTL', RQ .. ':job:' .. job)
  if ttl == -2 then
    call('DEL', dependents)
  elseif ttl > 0 then
    call('EXPIRE', dependents, ttl)
  end
end

-- Delete all that Redis has of the task, but for a lock that was to last until its TTL.
local function delete(job)
  unlock(job, true)
  call('DEL', RQ .. ':job:' .. job, RQ .. ':results:' .. job, RQ .. ':executions:' .. job,
    RQ .. ':job:' .. job .. ':dependents', RQ .. ':job::' .. job .. ':dependencies')
end

-- A task of ours leaves the archive.
local function unarchive(queue, job)
  own_call('ZREM', OWN .. ':archived:' .. queue, job)
end

-- Delete an entry of the registry 'failed' or 'finished', and its task, unless the task is elsewhere by now: it was
-- run again, or stored anew under its ID. Returns how many tasks went, 1 or 0.
local function forget(registry, queue, job)
  call('ZREM', RQ .. ':' .. registry .. ':' .. queue, job)
  if registry == 'failed' then unarchive(queue, job) end
  local found = fields_of(RQ .. ':job:' .. job, 'status', 'origin')
  if not found[1] or found[1] == registry and found[2] == queue then delete(job) end
  return found[1] == registry and found[2] == queue and 1 or 0
end

-- Take the IDs of a full archive out of its list that RQ's tools took away; how many. To look at all of them takes some
-- milliseconds, so that it is done every 10 s at most.
local function unlist_gone(queue, ours, failed)
  if not call('SET', OWN .. ':looked:' .. queue, 1, 'NX', 'EX', 10) then return 0 end
  local gone = call('ZDIFF', 2, ours, failed)
  for first = 1, #gone, 1000 do call('ZREM', ours, unpack(gone, first, math.min(first + 999, #gone))) end
  return #gone
end

-- Keep a task as failed, for people to look at. Beyond the limit (0: there is none), drop those that expire first, and
-- count them: at most 100 at a time, so that nobody waits; never the failed jobs of plain RQ users, of which there may
-- be any number, nor what a person has set aside (`limit`: nil). That is why our tasks that failed stand in a set of
-- their own too: zset boilerd:archived:Q, score = when the task expires; the set expires with the last of them.
local function archive(queue, job, seconds, limit)
  local key, ours = RQ .. ':failed:' .. queue, OWN .. ':archived:' .. queue
  own_call('ZADD', key, stamp(seconds + ARCHIVE_TTL_S), job)
  unlock(job, false)
  -- A lock that stays expires together with the job hash.
  local lock = call('HMGET', RQ .. ':job:' .. job, 'unique_key', 'unique_until')
  if lock[1] and lock[2] == 'success' and redis.pcall('GET', lock[1]) == job then
    call('EXPIRE', lock[1], ARCHIVE_TTL_S, 'LT')
  end
  call('HDEL', RQ .. ':job:' .. job, 'cancel_requested')
  call('HSET', RQ .. ':job:' .. job, 'status', 'failed', 'ended_at', iso(seconds))
  call('EXPIRE', RQ .. ':job:' .. job, ARCHIVE_TTL_S)
  call('EXPIRE', RQ .. ':results:' .. job, ARCHIVE_TTL_S)
  call_dependents(job, seconds, false)
  if call('HEXISTS', RQ .. ':job:' .. job, 'task_type') == 0 then return end -- a refused job of plain RQ
  if not limit then return end
  own_call('ZADD', ours, stamp(seconds + ARCHIVE_TTL_S), job)
  call('EXPIRE', ours, ARCHIVE_TTL_S)
  local excess = limit > 0 and call('ZCARD', ours) - limit or 0
  if excess > 0 then excess = excess - unlist_gone(queue, ours, key) end
  if excess <= 0 then return end
  local dropped = 0
  for _, old in ipairs(call('ZRANGE', ours, 0, math.min(excess, 100) - 1)) do
    -- A task that RQ's tools moved elsewhere is not archived any more.
    if old ~= job and call('ZSCORE', key, old) then
      dropped = dropped + forget('failed', queue, old)
    elseif old ~= job then
      unarchive(queue, old)
    end
  end
  if dropped > 0 then own_call('HINCRBY', stats_key(queue, seconds), 'dropped', dropped) end -- the caller's count: its TTL
end

-- Add the end of an attempt to the stream that RQ's tools read; `kind` is RQ's: 1 success, 2 failed.
local function record(job, execution, worker, kind, started, ended, field, value)
  local entry = {'type', kind, 'worker_name', worker, 'execution_id', execution,
    'execution_started_at', stamp(started), 'execution_ended_at', stamp(ended)}
  if value ~= '' then
    entry[#entry + 1] = field
    entry[#entry + 1] = value
  end
  own_call('XADD', RQ .. ':results:' .. job, 'MAXLEN', 30, '*', unpack(entry))
end

-- Count attempts in RQ's record of a worker, which the caller knows to be there: it must not come back without its TTL.
local function count_on_worker(worker, field, attempts, seconds)
  local key = RQ .. ':worker:' .. worker
  redis.pcall('HINCRBY', key, field, attempts)
  redis.pcall('HINCRBYFLOAT', key, 'total_working_time', stamp(seconds))
end
