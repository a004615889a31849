-- Acknowledge completions, and claim the next tasks: one round trip for all of them.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 how many tasks to claim at most (0: the worker goes on with the
--   task that it runs), 5 into how many parts a queue is shared, 6 a new execution ID, 7 number of queues (0: claim
--   nothing), from 8 on their names in the order to try; then for each completion COMPLETION_LENGTH values:
--   job ID, execution ID, queue, retention in seconds (-1: for ever), started (epoch), result (base64 of JSON, '' for
--   none), task type, whether the end of the task has to look at a unique lock, a concurrency key or repeats: 1 or 0.
-- Returns {lost, claimed, is registered, why nothing}:
--   lost: job IDs whose lease was gone, so that nothing was written;
--   claimed: for each task {job ID, execution ID, queue, started (epoch), its CLAIMED_FIELDS in that order}, all of one
--     queue; behind the fields its concurrency_limit, if no task could ever run under it. No fields: the queue held an ID without a job, which is gone from the queue by now;
--   is registered: 1, or 0 if RQ's record of the worker is gone;
--   why nothing: HOLDS_MORE: the worker holds a claim beside those it acknowledged, so that nothing was claimed;
--     LOOK_AGAIN: so many tasks stepped aside that not all were looked at, and the worker is to call again; else 0.
-- Several tasks, a batch, are claimed at once from long queues only: one more than a part of those that wait, so that
--   all workers share a short queue. Execution IDs of a batch end in '-' and the place in it, from 0. Never in a
--   batch: tasks with a concurrency key, of a queue with max_active, or marked `alone`.
-- Touches, acknowledging, if the task is to be repeated: rq:job:ID, rq:results:ID, rq:scheduled:Q or rq:queue:Q;
--   in any case rq:wip:Q, rq:execution:ID:EID, rq:executions:ID, rq:worker:W:executions,
--   rq:worker:W, boilerd:stats:Q:DAY, boilerd:completed:Q (the last 1,000 or some more, as JSON), and with no
--   retention rq:job:ID and rq:results:ID (DEL), else rq:job:ID (status finished, EXPIRE),
--   rq:results:ID (XADD, EXPIRE), rq:finished:Q (ZADD, score = when it expires). Of jobs of plain RQ that depend on
--   it: rq:job:ID:dependents, rq:job::ID:dependencies, rq:deferred:Q, rq:job:ID (status, enqueued_at), rq:queue:Q.
-- Touches, claiming: rq:suspended, boilerd:paused, boilerd:limits, boilerd:running:KEY (ZADD, score = end
--   of the lease; a day), boilerd:called:KEY (ZREM), boilerd:waiting:KEY, boilerd:aside:Q (ZADD, score = when it
--   stepped aside; its place among those that do so in one call), boilerd:keys (SADD), rq:queue:Q (LPOP, LPUSH),
--   boilerd:bell:Q, rq:job:ID (status started, PERSIST), rq:execution:ID:EID, rq:wip:Q (ZADD, score = end of the
--   lease and LEASE_OFFSET_S),
--   rq:worker:W:executions (EXPIRE: a day), rq:worker:W (state). rq:executions:ID is written by the first heartbeat.

local worker, limit, parts, execution, queues = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local first_queue, first_completion = 8, 8 + queues
local has_completions = #ARGV >= first_completion
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

-- Acknowledge

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

if has_completions then
  local by_queue = {}
  for i = first_completion, #ARGV, COMPLETION_LENGTH do
    local done = completion_at(i)
    by_queue[done.queue] = by_queue[done.queue] or {}
    table.insert(by_queue[done.queue], done)
  end
  for queue, completions in pairs(by_queue) do
    local found = with_lease(queue, completions)
    if #found > 0 then complete(queue, found) end
  end
end

-- Claim

-- Tasks of a queue that may step aside in one call: bounds how long Redis serves nobody else, to a few milliseconds.
local MOST_LOOKS = 100
-- Whether the queue has more tasks that may step aside.
local is_cut = false
-- How many tasks stepped aside.
local stepped_aside = 0
-- Whether one of the keys is there that may keep the worker from claiming.
local is_restricted = false
-- Bells of empty queues: their elements were rung for tasks that are taken.
local idle_bells = {}

local function note_empty(queue)
  idle_bells[#idle_bells + 1] = OWN .. ':bell:' .. queue
end

-- Take a share of the task's concurrency key. If none is left, the task steps aside and waits for one: no worker is
-- held, and the script that gives a share back calls the task.
local function enter_key(queue, job)
  local key, job_key = job.key, RQ .. ':job:' .. job.id
  local limit, origin = unpack(call('HMGET', job_key, 'concurrency_limit', 'origin'))
  local most = shares(limit)
  -- A task that was called before keeps its place.
  local place = own_call('ZSCORE', OWN .. ':called:' .. key, job.id)
  if place then call('ZREM', OWN .. ':called:' .. key, job.id) end
  if not most then -- the worker sees the limit, and refuses the task
    job.fields[#CLAIMED_FIELDS + 1] = limit
    return true
  end
  if running_under(key, seconds) >= most then
    stepped_aside = stepped_aside + 1
    if origin ~= queue then call('HSET', job_key, 'origin', queue) end
    step_aside(queue, key, job.id, place or stamp(seconds + stepped_aside / 1e6))
    return false
  end
  own_call('ZADD', OWN .. ':running:' .. key, stamp(seconds + LEASE_S), job.id)
  call('EXPIRE', OWN .. ':running:' .. key, CLAIMS_TTL_S)
  return true
end

-- How many tasks may be claimed from the queue now.
local function claimable_in(queue)
  local length = redis.pcall('LLEN', RQ .. ':queue:' .. queue)
  if type(length) ~= 'number' then return 0 end -- a foreign key
  if length == 0 then
    note_empty(queue)
    return 0
  end
  local active = redis.pcall('ZCARD', RQ .. ':wip:' .. queue)
  if type(active) ~= 'number' then return 0 end
  if is_restricted then
    if redis.pcall('SISMEMBER', OWN .. ':paused', queue) == 1 then return 0 end
    local max_active = tonumber(redis.pcall('HGET', OWN .. ':limits', queue .. ':max_active')) or 0
    if max_active > 0 then return active < max_active and 1 or 0 end
  end
  return math.min(limit, 1 + math.floor(length / parts))
end

-- Write that the worker holds the tasks, and return them as the script does. `is_batch`: there was room for several.
-- The tasks are out of their queue, so nothing here may fail: each key was looked at before, or is deleted if foreign.
local function claim(queue, jobs, is_batch)
  local members, leases, claimed = {}, {}, {}
  local score = lease_score(seconds + LEASE_S)
  for i, job in ipairs(jobs) do
    local key, eid = RQ .. ':job:' .. job.id, execution
    if is_batch then eid = string.format('%s-%d', execution, i - 1) end
    local pair = job.id .. ':' .. eid
    call('HSET', key, 'status', 'started', 'origin', queue, 'started_at', time, 'last_heartbeat', time,
      'worker_name', worker)
    if job.may_expire then call('PERSIST', key) end
    local execution_key = RQ .. ':execution:' .. pair
    call('HSET', execution_key, 'id', eid, 'job_id', job.id, 'created_at', stamped, 'last_heartbeat', stamped,
      'worker_name', worker)
    if job.key then call('HSET', execution_key, 'concurrency_key', job.key) end
    call('EXPIRE', execution_key, CLAIMS_TTL_S)
    members[i], leases[2 * i - 1], leases[2 * i] = pair, score, pair
    claimed[i] = {job.id, eid, queue, stamped, job.fields}
  end
  call('ZADD', RQ .. ':wip:' .. queue, unpack(leases))
  call('SADD', claims_key, unpack(members))
  call('EXPIRE', claims_key, CLAIMS_TTL_S)
  return claimed
end

-- The job of an ID from the queue, as far as the claim has to know it.
local function read(id)
  local key = RQ .. ':job:' .. id
  local fields = redis.pcall('HMGET', key, unpack(CLAIMED_FIELDS))
  if fields.err then -- a foreign key
    fields = {}
  elseif not fields[DATA] and not fields[STATUS] then
    fields = call('EXISTS', key) == 1 and {false, ''} or {}
  end
  return {id = id, fields = fields, key = fields[CONCURRENCY_KEY], is_alone = fields[CONCURRENCY_KEY] or fields[ALONE],
    may_expire = fields[ENDED_AT] or fields[TTL]}
end

-- Whether the task is in another place, the one that its status names, so that its ID stands in the queue once too
-- often, as it does when plain RQ's client stores it twice: then the ID is dropped. A pending task, as good as every
-- one, costs no command.
local function is_elsewhere(job)
  local status = job.fields[STATUS]
  if status == 'queued' then return false end
  local queue = call('HGET', RQ .. ':job:' .. job.id, 'origin') or ''
  if status ~= 'started' then
    local registry = REGISTRY_OF[status] or status == 'canceled' and status
    return registry and type(redis.pcall('ZSCORE', RQ .. ':' .. registry .. ':' .. queue, job.id)) == 'string'
  end
  for _, pair in ipairs(redis.pcall('ZRANGE', RQ .. ':wip:' .. queue, 0, -1)) do
    if pair:match('^(.*):') == job.id then return true end
  end
  return false
end

-- One task, the first of the queue that may run; looks at a bounded number of them.
local function take_one(queue)
  for _ = 1, MOST_LOOKS do
    local id = call('LPOP', RQ .. ':queue:' .. queue)
    if not id then return note_empty(queue) end
    local job = id ~= '' and read(id)
    if job and #job.fields == 0 then return {{id, execution, queue, stamped, {}}} end
    if job and not is_elsewhere(job) and (not job.key or enter_key(queue, job)) then return claim(queue, {job}, false) end
  end
  is_cut = true
end

-- Several tasks, each once, up to the first that is to be claimed alone; the rest goes back to the queue's head.
local function take(queue, most)
  if most == 1 then return take_one(queue) end
  local key, jobs, is_taken = RQ .. ':queue:' .. queue, {}, {}
  local ids = call('LPOP', key, most)
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
  return claim(queue, jobs, true)
end

if queues > 0 then
  -- As a rule none of these is there, and one command shows it.
  is_restricted = call('EXISTS', claims_key, RQ .. ':suspended', OWN .. ':paused', OWN .. ':limits') > 0
  -- A claim whose answer never arrived: the worker must settle it before it gets another.
  if is_restricted and call('EXISTS', claims_key) == 1 then return {lost, {}, is_registered, HOLDS_MORE} end
end

if queues > 0 and not (is_restricted and call('EXISTS', RQ .. ':suspended') == 1) then
  for i = first_queue, first_completion - 1 do
    local most = claimable_in(ARGV[i])
    local claimed = most > 0 and take(ARGV[i], most)
    if claimed then
      -- A worker that has just completed something is busy already.
      if not has_completions then set_state('busy') end
      return {lost, claimed, is_registered, 0}
    end
  end
  if #idle_bells > 0 then call('DEL', unpack(idle_bells)) end
end
if limit > 0 then set_state(queues > 0 and 'idle' or 'suspended') end
return {lost, {}, is_registered, is_cut and LOOK_AGAIN or 0}
