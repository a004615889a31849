-- Renew the leases of live workers and their presence in RQ's registry.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 lease in seconds, 4 seconds to keep a worker's record,
--   then worker names.
-- Returns {overdue, unwanted}: overdue = for each attempt that is past its timeout or deadline {worker name,
--   job ID:execution ID, seconds past it}; unwanted = names of workers whose task was cancelled, or taken over, and still runs.
-- Touches for each worker: rq:worker:W (last_heartbeat, EXPIRE), rq:worker:W:executions (EXPIRE: a day),
--   and for each claim in it rq:wip:Q (ZADD XX), rq:execution:ID:EID, rq:executions:ID,
--   boilerd:running:KEY (ZADD XX, EXPIRE), rq:job:ID (last_heartbeat).

local lease, ttl = tonumber(ARGV[3]), tonumber(ARGV[4])
local seconds = now()
local time = iso(seconds)
local overdue, unwanted = {}, {}

-- What stands in one claim's keys must not cost the others their leases.
local function renew(worker, claim)
  local job, eid = claim:match('^(.*):([^:]*)$')
  if not job then return end -- a stranger's
  local key = RQ .. ':job:' .. job
  local fields = fields_of(key, 'origin', 'timeout', 'deadline', 'concurrency_key', 'cancel_requested')
  -- XX: a lease that is gone was taken over by the recoverer and must not come back.
  if not fields[1] or not is_held(job, eid, fields[1]) then
    unwanted[#unwanted + 1] = worker
    return
  end
  call('ZADD', RQ .. ':wip:' .. fields[1], 'XX', stamp(seconds + lease), claim)
  local record = RQ .. ':execution:' .. claim
  if own_call('HSETNX', record, 'created_at', stamp(seconds)) == 1 then
    -- It expired while nobody renewed it, as in a long outage; the timeout counts from here.
    call('HSET', record, 'id', eid, 'job_id', job, 'worker_name', worker)
    if fields[4] then call('HSET', record, 'concurrency_key', fields[4]) end
  end
  call('HSET', record, 'last_heartbeat', stamp(seconds))
  call('EXPIRE', record, lease + 60)
  own_call('ZADD', RQ .. ':executions:' .. job, stamp(seconds + lease + 60), eid)
  call('EXPIRE', RQ .. ':executions:' .. job, lease + 60)
  if fields[4] then
    own_call('ZADD', OWN .. ':running:' .. fields[4], 'XX', stamp(seconds + lease), job)
    call('EXPIRE', OWN .. ':running:' .. fields[4], KEPT)
  end
  call('HSET', key, 'last_heartbeat', time)
  local started = tonumber(call('HGET', record, 'created_at')) or seconds
  local timeout, deadline = tonumber(fields[2] or -1), tonumber(fields[3] or 'inf')
  local ends = math.min(timeout and timeout > 0 and started + timeout or math.huge, deadline or math.huge)
  if fields[5] then unwanted[#unwanted + 1] = worker end
  if seconds > ends then overdue[#overdue + 1] = {worker, claim, stamp(seconds - ends)} end
end

for i = 5, #ARGV do
  local key = RQ .. ':worker:' .. ARGV[i]
  -- The record may be gone; the worker registers itself again. Its claims are its claims all the same.
  if call('EXPIRE', key, ttl) == 1 then redis.pcall('HSET', key, 'last_heartbeat', time) end
  call('EXPIRE', key .. ':executions', KEPT)
  for _, claim in ipairs(own_call('SMEMBERS', key .. ':executions')) do renew(ARGV[i], claim) end
end
return {overdue, unwanted}
