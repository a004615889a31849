-- Acknowledge what ended well, and claim the next tasks: one round trip for all of them.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 lease in seconds, 5 how many to claim at most (0: the worker goes
--   on with what it runs), 6 into how many parts a queue is shared,
--   7 number of queues (0: claim nothing), then their names in the order to try,
--   then a new execution ID, then for each task that ended well:
--   job ID, execution ID, queue, retention in seconds (-1: for ever), started (epoch), result (base64 of JSON, '' for none),
--   task type, whether its end has to see to a unique lock, a concurrency key or its repeats: 1 or 0.
-- Returns {lost, claimed, is registered, why nothing}: lost = job IDs whose lease was gone, so that nothing was
--   written; claimed = for each task {job ID, execution ID, queue, started (epoch), its FIELDS in that order}, all of one queue.
--   No fields: the queue held an ID without a job hash, which is gone from the queue by now. Is registered: 0
--   when RQ's record of the worker is gone. Why nothing: 1 when the worker holds a claim beside those it
--   acknowledged, so that nothing was claimed; 2 when so many tasks stepped aside that not all were looked at, and
--   it is to call again; else 0.
-- Several tasks, a batch, are claimed at once from long queues only: one more than a part of what waits, so that all
--   workers share a short queue. Execution IDs of a batch end in '-' and the place in it, from 0. Never in a
--   batch: tasks with a concurrency key, of a queue with max_active, or marked `alone`.
-- Touches, acknowledging, where the task is to be repeated: rq:job:ID, rq:results:ID, rq:scheduled:Q or rq:queue:Q;
--   in any case rq:wip:Q, rq:execution:ID:EID, rq:executions:ID, rq:worker:W:executions,
--   rq:worker:W, boilerd:stats:Q:DAY, boilerd:completed:Q (the last 1,000 or some more, as JSON), and with no
--   retention rq:job:ID and rq:results:ID (DEL), else rq:job:ID (status finished, EXPIRE),
--   rq:results:ID (XADD, EXPIRE), rq:finished:Q (ZADD, score = when it expires). Of jobs of plain RQ that depend on
--   it: rq:job:ID:dependents, rq:job::ID:dependencies, rq:deferred:Q, rq:job:ID (status, enqueued_at), rq:queue:Q.
-- Touches, claiming: rq:suspended, boilerd:paused, boilerd:limits, boilerd:running:KEY (ZADD, score = end
--   of the lease; a day), boilerd:called:KEY (ZREM), boilerd:waiting:KEY (ZADD, score = when it stepped aside; its
--   place among those that do so in one call), boilerd:keys (SADD), rq:queue:Q (LPOP, LPUSH), boilerd:bell:Q,
--   rq:job:ID (status started, PERSIST), rq:execution:ID:EID, rq:wip:Q (ZADD, score = end of the lease),
--   rq:worker:W:executions (EXPIRE: a day), rq:worker:W (state). rq:executions:ID is written by the first heartbeat.

local worker, lease, most = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local parts, queues = tonumber(ARGV[6]), tonumber(ARGV[7])
local execution = ARGV[8 + queues]
local worker_key = RQ .. ':worker:' .. worker
local claims_key = worker_key .. ':executions'
local seconds = now()
local time, stamped = iso(seconds), stamp(seconds)
local lost, ended, bells, stepped_aside, is_cut, is_restricted = {}, {}, {}, 0, false, false
-- Tasks of a queue that may step aside in one call: bounds how long Redis serves nobody else, to a few milliseconds.
local MOST_LOOKS = 100
local is_registered = call('TYPE', worker_key).ok == 'hash' and 1 or 0

-- What of a job the worker is told; jobs.py has the same list.
local FIELDS = {'data', 'status', 'task_type', 'concurrency_key', 'alone', 'ended_at', 'ttl', 'unique_key', 'timeout',
  'deadline', 'result_ttl', 'max_retries', 'retries_left', 'number_of_retries', 'retry_intervals', 'enqueued_at',
  'repeats_left'}
local DATA, STATUS, CONCURRENCY_KEY, ALONE, ENDED_AT, TTL = 1, 2, 4, 5, 6, 7

-- RQ's record of the worker may be gone, and must not come back without its TTL.
local function set_state(state)
  if is_registered == 1 then call('HSET', worker_key, 'state', state) end
end

-- Keep the task and its result until its retention is over; nothing of one that RQ's tools took away meanwhile.
local function keep(done)
  local key, retention = RQ .. ':job:' .. done.job, done.retention
  local fields = fields_of(key, 'unique_key', 'unique_until', 'status', 'worker_name')
  if not runs_with(worker, fields[3], fields[4]) then return end
  unlock(done.job, true, fields)
  call('HDEL', key, 'cancel_requested')
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
  call('HSET', RQ .. ':job:' .. done.job, 'repeats_left', whole(left - 1))
  if #intervals > 0 then call('HSET', RQ .. ':job:' .. done.job, 'repeat_intervals', cjson.encode(intervals)) end
  if after > 0 then
    own_call('ZCARD', RQ .. ':scheduled:' .. done.queue) -- it must get somewhere
    schedule(done.queue, done.job, seconds + after, seconds)
  else
    own_call('LLEN', RQ .. ':queue:' .. done.queue)
    call('HSET', RQ .. ':job:' .. done.job, 'enqueued_at', time)
    push(done.queue, done.job, false)
  end
end

-- The completions of a queue whose leases are still held; the others are noted as lost.
local function held(queue, completions)
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

-- Whether the task ran for so short a time that nobody can have cancelled or deleted it, and stored another of its ID:
-- to look would be one more command for each task.
local function is_unseen(done)
  return seconds - done.started < 0.05
end

-- Ends all completions of a queue together. What could fail comes before the claims are given up.
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
    elseif done.retention == 0 and (is_unseen(done) and not has_dependents or is_started(done.job, worker)) then
      if done.needs_cleanup then unlock(done.job, true) end
      gone[#gone + 1] = RQ .. ':job:' .. done.job
      gone[#gone + 1] = RQ .. ':results:' .. done.job
    else -- also one that RQ's tools took away while it ran: gone, it would count as done for its dependents
      keep(done)
    end
    took = math.max(took, seconds - done.started) -- a batch was claimed at one time
    recent[i] = '{"id":' .. cjson.encode(done.job) .. ',"type":' .. cjson.encode(done.kind)
      .. ',"started_at":' .. done.began .. tail
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

local first_done = 9 + queues
for i = first_done, #ARGV, 8 do
  local queue = ARGV[i + 2]
  ended[queue] = ended[queue] or {}
  table.insert(ended[queue], {
    job = ARGV[i], eid = ARGV[i + 1], claim = ARGV[i] .. ':' .. ARGV[i + 1], queue = queue,
    retention = tonumber(ARGV[i + 3]), started = tonumber(ARGV[i + 4]), began = ARGV[i + 4], result = ARGV[i + 5],
    kind = ARGV[i + 6], needs_cleanup = ARGV[i + 7] == '1',
  })
end
for queue, completions in pairs(ended) do
  local found = held(queue, completions)
  if #found > 0 then complete(queue, found) end
end

-- Take a share of the task's concurrency key. Where none is left the task steps aside and waits
-- for one: no worker is held, and whoever gives a share back calls it.
local function enter_key(job, key)
  local limit = call('HGET', RQ .. ':job:' .. job, 'concurrency_limit')
  -- One that was called before keeps its place.
  local place = own_call('ZSCORE', OWN .. ':called:' .. key, job)
  if place then call('ZREM', OWN .. ':called:' .. key, job) end
  if running_under(key, seconds) >= (tonumber(limit) or 1) then
    stepped_aside = stepped_aside + 1
    own_call('ZADD', OWN .. ':waiting:' .. key, 'NX', place or stamp(seconds + stepped_aside / 1e6), job)
    own_call('SADD', OWN .. ':keys', key)
    return false
  end
  own_call('ZADD', OWN .. ':running:' .. key, stamp(seconds + lease), job)
  call('EXPIRE', OWN .. ':running:' .. key, KEPT)
  return true
end

-- What its bell still holds was rung for tasks that are taken.
local function note_empty(queue)
  bells[#bells + 1] = OWN .. ':bell:' .. queue
end

-- How many tasks may be claimed from the queue now.
local function room_in(queue)
  local length = redis.pcall('LLEN', RQ .. ':queue:' .. queue)
  if type(length) ~= 'number' then return 0 end -- a stranger's key
  if length == 0 then
    note_empty(queue)
    return 0
  end
  local active = redis.pcall('ZCARD', RQ .. ':wip:' .. queue)
  if type(active) ~= 'number' then return 0 end
  if is_restricted then
    if redis.pcall('SISMEMBER', OWN .. ':paused', queue) == 1 then return 0 end
    local limit = tonumber(redis.pcall('HGET', OWN .. ':limits', queue .. ':max_active')) or 0
    if limit > 0 then return active < limit and 1 or 0 end
  end
  return math.min(most, 1 + math.floor(length / parts))
end

-- Writes that the worker holds the tasks, and answers as the script does. The tasks are out of their queue, so
-- nothing here may fail: what each key held was seen before, or makes way.
local function claim(queue, jobs, room)
  local members, leases, answers = {}, {}, {}
  local ends = stamp(seconds + lease)
  for i, job in ipairs(jobs) do
    local key, eid = RQ .. ':job:' .. job.id, execution
    if room > 1 then eid = string.format('%s-%d', execution, i - 1) end
    local pair = job.id .. ':' .. eid
    call('HSET', key, 'status', 'started', 'origin', queue, 'started_at', time, 'last_heartbeat', time,
      'worker_name', worker)
    if job.may_expire then call('PERSIST', key) end
    local record_key = RQ .. ':execution:' .. pair
    call('HSET', record_key, 'id', eid, 'job_id', job.id, 'created_at', stamped, 'last_heartbeat', stamped,
      'worker_name', worker)
    if job.key then call('HSET', record_key, 'concurrency_key', job.key) end
    call('EXPIRE', record_key, lease + 60)
    members[i], leases[2 * i - 1], leases[2 * i] = pair, ends, pair
    answers[i] = {job.id, eid, queue, stamped, job.fields}
  end
  call('ZADD', RQ .. ':wip:' .. queue, unpack(leases))
  call('SADD', claims_key, unpack(members))
  call('EXPIRE', claims_key, KEPT)
  return answers
end

-- What the claim has to know of a task before it is taken.
local function read(id)
  local key = RQ .. ':job:' .. id
  local fields = redis.pcall('HMGET', key, unpack(FIELDS))
  if fields.err then -- a stranger's key
    fields = {}
  elseif not fields[DATA] and not fields[STATUS] then
    fields = call('EXISTS', key) == 1 and {false, ''} or {}
  end
  return {id = id, fields = fields, key = fields[CONCURRENCY_KEY], is_alone = fields[CONCURRENCY_KEY] or fields[ALONE],
    may_expire = fields[ENDED_AT] or fields[TTL]}
end

-- Whether the task is in the place that its status names, so that its ID stands in the queue once too often, as it
-- does when plain RQ's client stores it twice: then that is dropped. What is pending, as good as all, costs nothing.
local function is_elsewhere(job)
  local status = job.fields[STATUS]
  if status == 'queued' then return false end
  local queue = call('HGET', RQ .. ':job:' .. job.id, 'origin') or ''
  if status ~= 'started' then
    local is_registry = status == 'scheduled' or status == 'finished' or status == 'failed' or status == 'canceled'
    return is_registry and type(redis.pcall('ZSCORE', RQ .. ':' .. status .. ':' .. queue, job.id)) == 'string'
  end
  for _, held in ipairs(redis.pcall('ZRANGE', RQ .. ':wip:' .. queue, 0, -1)) do
    if held:match('^(.*):') == job.id then return true end
  end
  return false
end

-- One task, the first of the queue that may run; looks at a bounded number of them.
local function take_one(queue)
  for _ = 1, MOST_LOOKS do
    local id = call('LPOP', RQ .. ':queue:' .. queue)
    if not id then return note_empty(queue) end
    local job = read(id)
    if #job.fields == 0 then return {{id, execution, queue, stamped, {}}} end
    if not is_elsewhere(job) and (not job.key or enter_key(id, job.key)) then return claim(queue, {job}, 1) end
  end
  is_cut = true
end

-- Several tasks, each once, up to the first that is to be claimed alone; the rest goes back to where it was.
local function take(queue, room)
  if room == 1 then return take_one(queue) end
  local key, jobs, is_taken = RQ .. ':queue:' .. queue, {}, {}
  local ids = call('LPOP', key, room)
  for i, id in ipairs(ids) do
    local job = read(id)
    if job.is_alone or #job.fields == 0 then
      for back = #ids, i, -1 do call('LPUSH', key, ids[back]) end
      break
    end
    if not is_taken[id] and not is_elsewhere(job) then jobs[#jobs + 1] = job end
    is_taken[id] = true
  end
  if #jobs == 0 then return take_one(queue) end
  return claim(queue, jobs, room)
end

if queues > 0 then
  -- As a rule none of these is there, and one command tells.
  is_restricted = call('EXISTS', claims_key, RQ .. ':suspended', OWN .. ':paused', OWN .. ':limits') > 0
  -- A claim whose answer never arrived: the worker must settle it before it gets another.
  if is_restricted and call('EXISTS', claims_key) == 1 then return {lost, {}, is_registered, 1} end
end

if queues > 0 and not (is_restricted and call('EXISTS', RQ .. ':suspended') == 1) then
  for i = 8, 7 + queues do
    local room = room_in(ARGV[i])
    local claimed = room > 0 and take(ARGV[i], room)
    if claimed then
      -- One that has just ended something is busy already.
      if first_done > #ARGV then set_state('busy') end
      return {lost, claimed, is_registered, 0}
    end
  end
  if #bells > 0 then call('DEL', unpack(bells)) end
end
if most > 0 then set_state(queues > 0 and 'idle' or 'suspended') end
return {lost, {}, is_registered, is_cut and 2 or 0}
