-- Acknowledge what ended well, and claim the next task: one round trip a task.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 lease in seconds,
--   5 number of queues (0: claim nothing), then their names in the order to try,
--   then a new execution ID, then for each task that ended well:
--   job ID, execution ID, queue, retention in seconds, started (epoch), result (base64 of JSON, '' for none).
-- Returns {lost, claimed}: lost = job IDs whose lease was gone, so that nothing was written;
--   claimed = {} or {job ID, queue, started (epoch), the flat job hash}. An empty flat hash: the
--   queue held an ID without a job hash, which is gone from the queue by now.
-- Touches, acknowledging: rq:wip:Q, rq:execution:ID:EID, rq:executions:ID, rq:worker:W:executions,
--   rq:worker:W, boilerd:stats:Q:DAY, boilerd:completed:Q (the last 1,000, as JSON), and with no
--   retention rq:job:ID and rq:results:ID (DEL), else rq:job:ID (status finished, EXPIRE),
--   rq:results:ID (XADD, EXPIRE), rq:finished:Q (ZADD, score = when it expires).
-- Touches, claiming: rq:suspended, boilerd:paused, rq:queue:Q (LPOP), boilerd:bell:Q, rq:job:ID (status
--   started, PERSIST), rq:execution:ID:EID, rq:executions:ID, rq:wip:Q (ZADD, score = end of
--   the lease), rq:worker:W:executions, rq:worker:W (state).

local worker, lease, queues = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local execution = ARGV[6 + queues]
local worker_key = RQ .. ':worker:' .. worker
local seconds = now()
local time = iso(seconds)

local function complete(job, eid, queue, retention, started, result)
  if not drop_claim(job, eid, queue, worker) then return false end
  local key = RQ .. ':job:' .. job
  local type = call('HGET', key, 'task_type') or ''
  if retention > 0 then
    call('HSET', key, 'status', 'finished', 'ended_at', time)
    call('EXPIRE', key, retention)
    record(job, eid, worker, 1, started, seconds, 'return_value', result)
    call('EXPIRE', RQ .. ':results:' .. job, retention)
    call('ZADD', RQ .. ':finished:' .. queue, stamp(seconds + retention), job)
  else
    delete(job)
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

local function claim(job, queue)
  local key = RQ .. ':job:' .. job
  if call('TYPE', key).ok ~= 'hash' then return {job, queue, stamp(seconds), {}} end
  local pair = job .. ':' .. execution
  call('HSET', key, 'status', 'started', 'origin', queue, 'started_at', time, 'last_heartbeat', time,
    'worker_name', worker)
  call('PERSIST', key)
  call('HSET', RQ .. ':execution:' .. pair, 'id', execution, 'job_id', job, 'created_at', stamp(seconds),
    'last_heartbeat', stamp(seconds), 'worker_name', worker)
  call('EXPIRE', RQ .. ':execution:' .. pair, lease + 60)
  call('ZADD', RQ .. ':executions:' .. job, stamp(seconds + lease + 60), execution)
  call('EXPIRE', RQ .. ':executions:' .. job, lease + 60)
  call('ZADD', RQ .. ':wip:' .. queue, stamp(seconds + lease), pair)
  call('SADD', worker_key .. ':executions', pair)
  call('EXPIRE', worker_key .. ':executions', lease + 60)
  set_worker_state(worker, 'busy')
  return {job, queue, stamp(seconds), call('HGETALL', key)}
end

if queues > 0 and call('EXISTS', RQ .. ':suspended') == 0 then
  for i = 6, 5 + queues do
    local queue = ARGV[i]
    if call('SISMEMBER', OWN .. ':paused', queue) == 0 then
      local job = call('LPOP', RQ .. ':queue:' .. queue)
      if job then return {lost, claim(job, queue)} end
      -- Nothing waits, so what the bell still holds was rung for tasks that are taken.
      call('DEL', OWN .. ':bell:' .. queue)
    end
  end
end
set_worker_state(worker, queues > 0 and 'idle' or 'suspended')
return {lost, {}}
