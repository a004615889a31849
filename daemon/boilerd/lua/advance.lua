-- Acknowledge what ended well, and claim the next task: one round trip a task.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 lease in seconds,
--   5 number of queues (0: claim nothing), then their names in the order to try,
--   then a new execution ID, then for each task that ended well:
--   job ID, execution ID, queue, retention in seconds (-1: for ever), started (epoch), result (base64 of JSON, '' for none).
-- Returns {lost, claimed, is registered, holds more}: lost = job IDs whose lease was gone, so that nothing was written;
--   claimed = {} or {job ID, queue, started (epoch), the flat job hash}. An empty flat hash: the
--   queue held an ID without a job hash, which is gone from the queue by now. Is registered: 0 when
--   RQ's record of the worker is gone. Holds more: 1 when the worker holds a claim beside those it
--   acknowledged, so that nothing was claimed.
-- Touches, acknowledging: rq:wip:Q, rq:execution:ID:EID, rq:executions:ID, rq:worker:W:executions,
--   rq:worker:W, boilerd:stats:Q:DAY, boilerd:completed:Q (the last 1,000, as JSON), and with no
--   retention rq:job:ID and rq:results:ID (DEL), else rq:job:ID (status finished, EXPIRE),
--   rq:results:ID (XADD, EXPIRE), rq:finished:Q (ZADD, score = when it expires).
-- Touches, claiming: rq:suspended, boilerd:paused, boilerd:limits, boilerd:running:KEY (ZADD, score = end
--   of the lease), boilerd:waiting:KEY (RPUSH), rq:queue:Q (LPOP), boilerd:bell:Q, rq:job:ID (status
--   started, PERSIST), rq:execution:ID:EID, rq:executions:ID, rq:wip:Q (ZADD, score = end of
--   the lease), rq:worker:W:executions, rq:worker:W (state).

local worker, lease, queues = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local execution = ARGV[6 + queues]
local worker_key = RQ .. ':worker:' .. worker
local seconds = now()
local time = iso(seconds)

local function complete(job, eid, queue, retention, started, result)
  if not is_held(job, eid, queue) then
    call('SREM', worker_key .. ':executions', job .. ':' .. eid)
    return false
  end
  local key = RQ .. ':job:' .. job
  local type = call('HGET', key, 'task_type') or ''
  if retention == 0 then
    drop_claim(job, eid, queue, worker)
    delete(job)
  else
    unlock(job, true)
    call('HDEL', key, 'cancel_requested')
    call('HSET', key, 'status', 'finished', 'ended_at', time)
    record(job, eid, worker, 1, started, seconds, 'return_value', result)
    if retention > 0 then
      call('EXPIRE', key, retention)
      call('EXPIRE', RQ .. ':results:' .. job, retention)
    end
    call('ZADD', RQ .. ':finished:' .. queue, retention > 0 and stamp(seconds + retention) or '+inf', job)
    drop_claim(job, eid, queue, worker)
  end
  local recent = OWN .. ':completed:' .. queue
  call('LPUSH', recent, string.format('{"id":%s,"type":%s,"worker":%s,"started_at":%s,"ended_at":%s}',
    cjson.encode(job), cjson.encode(type), cjson.encode(worker), stamp(started), stamp(seconds)))
  call('LTRIM', recent, 0, 999)
  count(queue, seconds, false)
  count_on_worker(worker, 'successful_job_count', seconds - started)
  return true
end

local lost = {}
for i = 7 + queues, #ARGV, 6 do
  if not complete(ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), ARGV[i + 5]) then
    lost[#lost + 1] = ARGV[i]
  end
end

local function claim(job, queue, concurrency_key)
  local key = RQ .. ':job:' .. job
  local pair = job .. ':' .. execution
  call('HSET', key, 'status', 'started', 'origin', queue, 'started_at', time, 'last_heartbeat', time,
    'worker_name', worker)
  call('PERSIST', key)
  call('HSET', RQ .. ':execution:' .. pair, 'id', execution, 'job_id', job, 'created_at', stamp(seconds),
    'last_heartbeat', stamp(seconds), 'worker_name', worker)
  if concurrency_key then call('HSET', RQ .. ':execution:' .. pair, 'concurrency_key', concurrency_key) end
  call('EXPIRE', RQ .. ':execution:' .. pair, lease + 60)
  call('ZADD', RQ .. ':executions:' .. job, stamp(seconds + lease + 60), execution)
  call('EXPIRE', RQ .. ':executions:' .. job, lease + 60)
  call('ZADD', RQ .. ':wip:' .. queue, stamp(seconds + lease), pair)
  call('SADD', worker_key .. ':executions', pair)
  call('EXPIRE', worker_key .. ':executions', lease + 60)
  set_worker_state(worker, 'busy')
  return {job, queue, stamp(seconds), call('HGETALL', key)}
end

-- Take a share of the task's concurrency key. Where none is left the task steps aside and waits
-- for one: no worker is held, and whoever gives a share back calls it.
local function enter_key(job, key)
  local limit = call('HGET', RQ .. ':job:' .. job, 'concurrency_limit')
  local was_called = call('HDEL', RQ .. ':job:' .. job, 'called') == 1
  if running_under(key, seconds) >= tonumber(limit or 1) then
    -- One that was called before keeps its place.
    call(was_called and 'LPUSH' or 'RPUSH', OWN .. ':waiting:' .. key, job)
    call('SADD', OWN .. ':keys', key)
    return false
  end
  call('ZADD', OWN .. ':running:' .. key, stamp(seconds + lease), job)
  return true
end

local function is_open(queue)
  if call('SISMEMBER', OWN .. ':paused', queue) == 1 then return false end
  if not is_kind(RQ .. ':queue:' .. queue, 'list') or not is_kind(RQ .. ':wip:' .. queue, 'zset') then return false end
  local limit = tonumber(call('HGET', OWN .. ':limits', queue .. ':max_active') or 0)
  return limit == 0 or call('ZCARD', RQ .. ':wip:' .. queue) < limit
end

-- The first task of the queue that may run; looks at a bounded number of them.
local function take(queue)
  for _ = 1, 100 do
    local job = call('LPOP', RQ .. ':queue:' .. queue)
    if not job then
      -- Nothing waits, so what the bell still holds was rung for tasks that are taken.
      call('DEL', OWN .. ':bell:' .. queue)
      return nil
    end
    if call('TYPE', RQ .. ':job:' .. job).ok ~= 'hash' then return {job, queue, stamp(seconds), {}} end
    local key = call('HGET', RQ .. ':job:' .. job, 'concurrency_key')
    if not key or enter_key(job, key) then return claim(job, queue, key) end
  end
end

local is_registered = call('EXISTS', worker_key)
-- A claim whose answer never arrived: the worker must settle it before it gets another.
if queues > 0 and call('SCARD', worker_key .. ':executions') > 0 then return {lost, {}, is_registered, 1} end

if queues > 0 and call('EXISTS', RQ .. ':suspended') == 0 then
  for i = 6, 5 + queues do
    local claimed = is_open(ARGV[i]) and take(ARGV[i])
    if claimed then return {lost, claimed, is_registered, 0} end
  end
end
set_worker_state(worker, queues > 0 and 'idle' or 'suspended')
return {lost, {}, is_registered, 0}
