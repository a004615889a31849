-- What the scripts need that claim tasks and end claims; scripts.py puts it behind common.lua.

-- How many a command took away; none from a key of another kind.
local function count_removed(...)
  local answer = redis.pcall(...)
  return type(answer) == 'number' and answer or 0
end

-- Whether a key can be used as what it should be; a stranger may have put something else there, and a command
-- that fails half-way through a script would leave a task nowhere.
local function is_kind(key, kind)
  local found = call('TYPE', key).ok
  return found == kind or found == 'none'
end

-- A whole number as text, at most the largest from which one can be taken: Redis itself writes large ones as 1e+17
-- (7.0) or 1e+21, which nobody reads as such.
local function whole(number)
  return string.format('%.0f', math.min(number, 2^53))
end

-- Seconds that what belongs to claims outlives the last heartbeat: longer than an outage takes, after which the
-- heartbeat is to find what it renews. What holds of a lease is its own end.
local KEPT = 86400

-- Names of the queues that boilerd serves: those that its tasks were ever in, and those in ARGV from `first` on.
-- All others are none of its business.
local function served(first)
  local names, is_known = own_call('SMEMBERS', OWN .. ':queues'), {}
  for _, name in ipairs(names) do is_known[name] = true end
  for i = first, #ARGV do
    if not is_known[ARGV[i]] then names[#names + 1] = ARGV[i] end
  end
  return names
end

-- Counters of a queue and day: hash boilerd:stats:Q:DAY with processed and failed; DAY counts
-- from 1970-01-01. Kept 90 days.
local function count(queue, seconds, processed, failed)
  local key = OWN .. ':stats:' .. queue .. ':' .. math.floor(seconds / 86400)
  if own_call('HINCRBY', key, 'processed', processed) == processed then call('EXPIRE', key, 90 * 86400) end
  if failed > 0 then own_call('HINCRBY', key, 'failed', failed) end
end

-- Make a task pending; at the head of its queue where it was claimed before.
local function push(queue, job, is_head)
  call('HSET', RQ .. ':job:' .. job, 'status', 'queued')
  local waiting = call(is_head and 'LPUSH' or 'RPUSH', RQ .. ':queue:' .. queue, job)
  note_queue(queue)
  ring(queue, waiting)
end

-- Whether a record says that its task runs, and with that worker: where RQ's tools deleted a task while it ran,
-- another of its ID may run elsewhere by now.
local function runs_with(worker, status, name)
  return status == 'started' and (not name or name == '' or name == worker)
end

-- Whether the task's record says that it runs, with that worker where one is named. If not, RQ's tools cancelled or
-- deleted it while it did: it must not come back, as a record without its call, or with a life of its own beside what
-- RQ made of it.
local function is_started(job, worker)
  local fields = fields_of(RQ .. ':job:' .. job, 'status', 'worker_name')
  return runs_with(worker or fields[2], fields[1], fields[2])
end

-- Release the unique lock, as its task asked: after 'success' only, or after any end. A lock that
-- expired and was taken by another task is left alone. `lock`: its unique_key and unique_until, where they are known.
local function unlock(job, is_success, lock)
  lock = lock or fields_of(RQ .. ':job:' .. job, 'unique_key', 'unique_until')
  if lock[1] and (lock[2] == 'end' or lock[2] == 'success' and is_success) and redis.pcall('GET', lock[1]) == job then
    call('DEL', lock[1])
  end
end

-- How many tasks run under the key. A share whose lease ran out is the recoverer's to give back,
-- unless its task does not run any more: then its record was deleted meanwhile.
local function running_under(key, seconds)
  local running = OWN .. ':running:' .. key
  for _, job in ipairs(own_call('ZRANGEBYSCORE', running, '-inf', stamp(seconds))) do
    if not is_started(job) then call('ZREM', running, job) end
  end
  return call('ZCARD', running)
end

-- Make those tasks pending that have waited longest for a share of the concurrency key, as many as there is room for
-- beside those that run, and those that were called earlier and are still on their way. They go to the heads of
-- their queues, behind those that were called earlier. Nothing is reserved for them: one that comes too late waits
-- again, in its old place.
-- Waiting and called: zsets, score = when the task first stepped aside.
local function call_waiting(key, seconds)
  local waiting, called = OWN .. ':waiting:' .. key, OWN .. ':called:' .. key
  if own_call('ZCARD', waiting) == 0 then
    own_call('SREM', OWN .. ':keys', key)
    return
  end
  local taken, last, is_paused = running_under(key, seconds), {}, {}
  -- One whose queue is paused will not come soon; the next is called as well.
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
      call('ZREM', called, job) -- it ended before it came
    end
  end
  local passed = 0
  while passed < 100 do
    local job, place = unpack(call('ZRANGE', waiting, passed, passed, 'WITHSCORES'))
    if not job then break end
    local fields = fields_of(RQ .. ':job:' .. job, 'status', 'origin', 'concurrency_limit')
    -- No queue: RQ's tools cancelled or deleted it.
    local queue = fields[1] == 'queued' and fields[2]
    if queue and taken >= (tonumber(fields[3]) or 1) then break end
    local list = RQ .. ':queue:' .. (queue or '')
    if not queue then
      call('ZREM', waiting, job)
    elseif not is_kind(list, 'list') then
      passed = passed + 1
    else
      call('ZREM', waiting, job)
      own_call('ZADD', called, place, job)
      call('EXPIRE', called, KEPT)
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

-- Whether the claim's lease is still held. Where it is not, another process owns the task by
-- now and the caller must not touch it.
local function is_held(job, execution, queue)
  local ends = redis.pcall('ZSCORE', RQ .. ':wip:' .. queue, job .. ':' .. execution)
  return type(ends) == 'string' and ends
end

-- The concurrency key of a claim: the job's record may have been deleted by RQ's tools, that of the
-- execution expired.
local function key_of(job, claim)
  return fields_of(RQ .. ':execution:' .. claim, 'concurrency_key')[1]
    or fields_of(RQ .. ':job:' .. job, 'concurrency_key')[1]
end

-- Give up the claim: last in a script, so that an error before it leaves the task claimed and
-- not nowhere (Lua does not roll back).
local function drop_claim(job, execution, queue, worker)
  local claim = job .. ':' .. execution
  local key = key_of(job, claim)
  if key then leave_key(job, key, now()) end
  own_call('SREM', RQ .. ':worker:' .. worker .. ':executions', claim)
  call('DEL', RQ .. ':execution:' .. claim)
  own_call('ZREM', RQ .. ':executions:' .. job, execution)
  call('ZREM', RQ .. ':wip:' .. queue, claim)
end

-- Whether all that a job of plain RQ depends on has ended well, or badly where it allows that. What is gone counts as
-- done, and so does `done`. These are RQ's rules, as of Job.dependencies_are_met (3.0).
local function are_dependencies_met(job, done, allows_failures)
  for _, id in ipairs(own_call('SMEMBERS', RQ .. ':job::' .. job .. ':dependencies')) do
    local status = id ~= done and fields_of(RQ .. ':job:' .. id, 'status')[1]
    if status and status ~= 'finished' and not (status == 'failed' and allows_failures) then return false end
  end
  return true
end

-- Make those jobs of plain RQ pending that waited for the task, and for nothing else; after its end. The others stay in
-- its list, which lives as long as it does. Nothing here may fail: the claim may be given up.
-- `is_done`: the task has ended well, although its record does not say so.
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
      -- It counts anew, as in RQ; a client of plain RQ may have written anything there.
      if (tonumber(fields[5]) or 0) > 0 then redis.pcall('EXPIRE', key, fields[5]) end
      own_call('LLEN', RQ .. ':queue:' .. queue) -- it must get somewhere
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

-- Forget the task altogether. A lock that was to last until its TTL stays.
local function delete(job)
  unlock(job, true)
  call('DEL', RQ .. ':job:' .. job, RQ .. ':results:' .. job, RQ .. ':executions:' .. job,
    RQ .. ':job:' .. job .. ':dependents', RQ .. ':job::' .. job .. ':dependencies')
end

-- A task of ours leaves the archive.
local function unarchive(queue, job)
  own_call('ZREM', OWN .. ':archived:' .. queue, job)
end

-- Forget an entry of the registry 'failed' or 'finished', and its task, unless that lives on
-- elsewhere: it was run again, or stored anew under its ID.
local function forget(kind, queue, job)
  call('ZREM', RQ .. ':' .. kind .. ':' .. queue, job)
  if kind == 'failed' then unarchive(queue, job) end
  local found = fields_of(RQ .. ':job:' .. job, 'status', 'origin')
  if not found[1] or found[1] == kind and found[2] == queue then delete(job) end
end

-- Set a task aside for people. Beyond the limit, forget those that expire first: a few at a time, so that nobody
-- waits, and never the failed jobs of plain RQ users, of which there may be any number. So what is ours stands in
-- a list of its own too: zset boilerd:archived:Q, score = when it expires; it expires with the last of them.
local function archive(queue, job, seconds, ttl, limit)
  local key, ours = RQ .. ':failed:' .. queue, OWN .. ':archived:' .. queue
  own_call('ZADD', key, stamp(seconds + ttl), job)
  unlock(job, false)
  -- A lock that stays goes with the record, which expires by itself.
  local lock = call('HMGET', RQ .. ':job:' .. job, 'unique_key', 'unique_until')
  if lock[1] and lock[2] == 'success' and redis.pcall('GET', lock[1]) == job then call('EXPIRE', lock[1], ttl, 'LT') end
  call('HDEL', RQ .. ':job:' .. job, 'cancel_requested')
  call('HSET', RQ .. ':job:' .. job, 'status', 'failed', 'ended_at', iso(seconds))
  call('EXPIRE', RQ .. ':job:' .. job, ttl)
  call('EXPIRE', RQ .. ':results:' .. job, ttl)
  call_dependents(job, seconds, false)
  if call('HEXISTS', RQ .. ':job:' .. job, 'task_type') == 0 then return end -- one that was refused
  own_call('ZADD', ours, stamp(seconds + ttl), job)
  call('EXPIRE', ours, ttl)
  local excess = call('ZCARD', ours) - limit
  if excess <= 0 then return end
  for _, old in ipairs(call('ZRANGE', ours, 0, math.min(excess, 100) - 1)) do
    -- One that RQ's tools took elsewhere is none of the archive any more.
    if old ~= job and call('ZSCORE', key, old) then
      forget('failed', queue, old)
    elseif old ~= job then
      unarchive(queue, old)
    end
  end
end

-- Add how an attempt ended to the stream that RQ's tools read; type 1 success, 2 failed.
local function record(job, execution, worker, kind, started, ended, field, value)
  local entry = {'type', kind, 'worker_name', worker, 'execution_id', execution,
    'execution_started_at', stamp(started), 'execution_ended_at', stamp(ended)}
  if value ~= '' then
    entry[#entry + 1] = field
    entry[#entry + 1] = value
  end
  own_call('XADD', RQ .. ':results:' .. job, 'MAXLEN', 30, '*', unpack(entry))
end

-- Add to RQ's record of a worker, which the caller knows to be there: it must not come back without its TTL.
local function count_on_worker(worker, field, attempts, seconds)
  local key = RQ .. ':worker:' .. worker
  redis.pcall('HINCRBY', key, field, attempts)
  redis.pcall('HINCRBYFLOAT', key, 'total_working_time', stamp(seconds))
end
