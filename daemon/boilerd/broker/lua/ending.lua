-- Functions that acknowledge completions, and what the scripts that do so have in common; scripts.py puts this file behind
-- claims.lua. ARGV[3] is the worker's name.

local worker = ARGV[3]
local worker_key = RQ .. ':worker:' .. worker
local claims_key = worker_key .. ':executions'
local seconds = now()
local time, stamped = iso(seconds), stamp(seconds)
local is_registered = call('TYPE', worker_key).ok == 'hash' and 1 or 0
-- Job IDs of completions whose lease was gone.
local lost = {}

-- RQ's record of the worker may be gone, and must not come back without its TTL.
local function set_state(state)
  if is_registered == 1 then call('HSET', worker_key, 'state', state) end
end

-- The completion whose values begin at ARGV[i]; claims.py writes them.
local function completion_at(i)
  local job, eid, queue, retention, started, result, task_type, needs_cleanup =
    unpack(ARGV, i, i + COMPLETION_LENGTH - 1)
  return {
    job = job, eid = eid, claim = job .. ':' .. eid, queue = queue, retention = tonumber(retention),
    started = tonumber(started), started_text = started, result = result, task_type = task_type,
    needs_cleanup = needs_cleanup == '1',
  }
end

-- Keep the task and its result until its retention is over; nothing of a task that RQ's tools took away meanwhile.
local function keep(done)
  local key, retention = RQ .. ':job:' .. done.job, done.retention
  local fields = fields_of(key, 'unique_key', 'unique_until', 'status', 'worker_name')
  if not runs_with(worker, fields[3], fields[4]) then return end
  unlock(done.job, true, fields)
  call('HDEL', key, 'cancel_requested', 'result')
  call('HSET', key, 'status', 'finished', 'ended_at', time)
  record(done.job, done.eid, worker, 1, done.started, seconds, 'return_value', done.result)
  if retention > 0 then
    call('EXPIRE', key, retention)
    call('EXPIRE', RQ .. ':results:' .. done.job, retention)
  end
  own_call('ZADD', RQ .. ':finished:' .. done.queue, retention > 0 and stamp(seconds + retention) or '+inf', done.job)
end

-- How often plain RQ's client wants the job to run again, and the seconds until then in turn; nil: not again.
local function repeats_of(job)
  local fields = fields_of(RQ .. ':job:' .. job, 'status', 'repeats_left', 'repeat_intervals', 'cancel_requested',
    'worker_name')
  local left = tonumber(tostring(fields[2]):match('^%d+$')) or 0
  if not runs_with(worker, fields[1], fields[5]) or fields[4] or left < 1 then return nil end
  local is_json, intervals = pcall(cjson.decode, fields[3] or '[]')
  -- cjson reads numbers that it cannot write, such as 1e999: found out now, before anything is written.
  local is_sound = is_json and type(intervals) == 'table' and pcall(cjson.encode, intervals)
  return left, is_sound and intervals or {}
end

-- Keep the result if it is to be kept, and have the job run again: RQ's rules, as of Repeat.schedule (3.0). The last
-- interval stands for all further ones.
local function run_again(done, left, intervals)
  local after = tonumber(intervals[1]) or 0
  if #intervals > 1 then table.remove(intervals, 1) end
  if done.retention ~= 0 then
    record(done.job, done.eid, worker, 1, done.started, seconds, 'return_value', done.result)
  end
  call('HDEL', RQ .. ':job:' .. done.job, 'result')
  call('HSET', RQ .. ':job:' .. done.job, 'repeats_left', whole(left - 1))
  redis.pcall('HINCRBY', RQ .. ':job:' .. done.job, 'runs', 1)
  if #intervals > 0 then call('HSET', RQ .. ':job:' .. done.job, 'repeat_intervals', cjson.encode(intervals)) end
  if after > 0 then
    own_call('ZCARD', RQ .. ':scheduled:' .. done.queue) -- the task must not end nowhere
    schedule(done.queue, done.job, seconds + after, seconds)
  else
    own_call('LLEN', RQ .. ':queue:' .. done.queue)
    call('HSET', RQ .. ':job:' .. done.job, 'enqueued_at', time)
    push(done.queue, done.job, false)
  end
end

-- The completions of a queue whose leases are still held; the others are noted as lost.
local function with_lease(queue, completions)
  local claims, found = {}, {}
  for i, done in ipairs(completions) do claims[i] = done.claim end
  local leases = redis.pcall('ZMSCORE', RQ .. ':wip:' .. queue, unpack(claims))
  for i, done in ipairs(completions) do
    if leases[i] then
      found[#found + 1] = done
    else
      lost[#lost + 1] = done.job
      own_call('SREM', claims_key, done.claim)
    end
  end
  return found
end

-- Whether the task ran for less than 50 ms; then its job is deleted without a look whether it still is this task's,
-- which would be one more command for each task. We accept that in this time RQ's tools may cancel the job, so that
-- its canceled record is lost; or delete it, and a client store another of its ID, so that this new task is lost: the
-- worker that claims its ID finds no job.
local function is_brief(done)
  return seconds - done.started < 0.05
end

-- End all completions of a queue together. Commands that could fail come before the claims are given up.
local function complete(queue, completions)
  local claims, gone, recent, keys, dependents, took = {}, {}, {}, {}, {}, 0
  local tail = ',"worker":' .. cjson.encode(worker) .. ',"ended_at":' .. stamped .. '}'
  for i, done in ipairs(completions) do dependents[i] = RQ .. ':job:' .. done.job .. ':dependents' end
  local has_dependents = call('EXISTS', unpack(dependents)) > 0
  for i, done in ipairs(completions) do
    local key = done.needs_cleanup and key_of(done.job, done.claim)
    claims[i] = done.claim
    gone[#gone + 1] = RQ .. ':execution:' .. done.claim
    gone[#gone + 1] = RQ .. ':executions:' .. done.job
    if key then keys[#keys + 1] = {done.job, key} end
    local left, intervals
    if done.needs_cleanup then left, intervals = repeats_of(done.job) end
    if left then
      done.is_repeated = true
      run_again(done, left, intervals)
    elseif done.retention == 0 and (is_brief(done) and not has_dependents or is_started(done.job, worker)) then
      if done.needs_cleanup then unlock(done.job, true) end
      gone[#gone + 1] = RQ .. ':job:' .. done.job
      gone[#gone + 1] = RQ .. ':results:' .. done.job
    else -- also a task that RQ's tools took away while it ran: deleted, it would count as completed for its dependents
      keep(done)
    end
    took = math.max(took, seconds - done.started) -- a batch was claimed at one time
    recent[i] = '{"id":' .. cjson.encode(done.job) .. ',"type":' .. cjson.encode(done.task_type)
      .. ',"started_at":' .. done.started_text .. tail
  end
  own_call('SREM', claims_key, unpack(claims))
  call('ZREM', RQ .. ':wip:' .. queue, unpack(claims))
  call('DEL', unpack(gone))
  for _, pair in ipairs(keys) do leave_key(pair[1], pair[2], seconds) end
  if has_dependents then
    for _, done in ipairs(completions) do call_dependents(done.job, seconds, done.is_repeated) end
  end
  if own_call('LPUSH', OWN .. ':completed:' .. queue, unpack(recent)) > 1100 then
    call('LTRIM', OWN .. ':completed:' .. queue, 0, 999)
  end
  count(queue, seconds, #completions, 0)
  if is_registered == 1 then count_on_worker(worker, 'successful_job_count', #completions, took) end
end

-- Write the completions whose values begin at ARGV[first].
local function acknowledge(first)
  local by_queue = {}
  for i = first, #ARGV, COMPLETION_LENGTH do
    local done = completion_at(i)
    by_queue[done.queue] = by_queue[done.queue] or {}
    table.insert(by_queue[done.queue], done)
  end
  for queue, completions in pairs(by_queue) do
    local found = with_lease(queue, completions)
    if #found > 0 then complete(queue, found) end
  end
end
