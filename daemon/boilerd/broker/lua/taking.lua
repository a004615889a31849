-- Functions that claim tasks; scripts.py puts this file behind ending.lua. The first values of ARGV are: 3 worker name,
-- 4 how many tasks to claim at most, 5 into how many parts a queue is shared, 6 a new execution ID, 7 number of queues
-- (0: claim nothing), from 8 on their names in the order to try.

local limit, parts, execution, queues = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local first_queue = 8

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

-- How many tasks of a queue with max_active may be claimed in one call: those that begin at once, as none may wait for
-- those before it while it counts as active.
local begin_at_once = 1

-- How many tasks may be claimed from the queue now.
local function claimable_in(queue)
  local length = redis.pcall('LLEN', RQ .. ':queue:' .. queue)
  if type(length) ~= 'number' then return 0 end -- a foreign key
  if length == 0 then
    note_empty(queue)
    return 0
  end
  local share = math.min(limit, 1 + math.floor(length / parts))
  local active = redis.pcall('ZCARD', RQ .. ':wip:' .. queue)
  if type(active) ~= 'number' then return 0 end
  if is_restricted then
    if redis.pcall('SISMEMBER', OWN .. ':paused', queue) == 1 then return 0 end
    local max_active = tonumber(redis.pcall('HGET', OWN .. ':limits', queue .. ':max_active')) or 0
    if max_active > 0 then
      -- Where none begins at once, none of the queues behind this one may be claimed from: it has its turn first.
      if begin_at_once == 0 and max_active > active then return nil end
      return math.max(0, math.min(share, begin_at_once, max_active - active))
    end
  end
  return share
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

-- The tasks that `take` claims from the first queue that has some for the worker; nil: none has.
local function take_from_first(take)
  for i = first_queue, first_queue + queues - 1 do
    local most = claimable_in(ARGV[i])
    if not most then return end
    local claimed = most > 0 and take(ARGV[i], most)
    if claimed then return claimed end
  end
  if #idle_bells > 0 then call('DEL', unpack(idle_bells)) end
end
