-- Renew the leases of live workers and their presence in RQ's registry.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 lease in seconds, 4 seconds to keep a worker's record,
--   then worker names.
-- Returns for each attempt that is past its timeout: {worker name, job ID, seconds past it}.
-- Touches for each worker: rq:worker:W (last_heartbeat, EXPIRE), rq:worker:W:executions (EXPIRE),
--   and for each claim in it rq:wip:Q (ZADD XX), rq:execution:ID:EID, rq:executions:ID,
--   rq:job:ID (last_heartbeat).

local lease, ttl = tonumber(ARGV[3]), tonumber(ARGV[4])
local seconds = now()
local time = iso(seconds)
local overdue = {}

local function renew(worker, claim)
  local job, eid = claim:match('^(.*):([^:]*)$')
  local key = RQ .. ':job:' .. job
  local fields = call('HMGET', key, 'origin', 'timeout')
  -- XX: a lease that is gone was taken over by the recoverer and must not come back.
  if not fields[1] or not call('ZSCORE', RQ .. ':wip:' .. fields[1], claim) then return end
  call('ZADD', RQ .. ':wip:' .. fields[1], 'XX', stamp(seconds + lease), claim)
  call('HSET', RQ .. ':execution:' .. claim, 'last_heartbeat', stamp(seconds))
  call('EXPIRE', RQ .. ':execution:' .. claim, lease + 60)
  call('ZADD', RQ .. ':executions:' .. job, 'XX', stamp(seconds + lease + 60), eid)
  call('EXPIRE', RQ .. ':executions:' .. job, lease + 60)
  call('HSET', key, 'last_heartbeat', time)
  local started = tonumber(call('HGET', RQ .. ':execution:' .. claim, 'created_at') or seconds)
  local timeout = tonumber(fields[2] or -1)
  if timeout and timeout > 0 and seconds - started > timeout then
    overdue[#overdue + 1] = {worker, job, stamp(seconds - started - timeout)}
  end
end

for i = 5, #ARGV do
  local key = RQ .. ':worker:' .. ARGV[i]
  if call('EXISTS', key) == 1 then
    call('HSET', key, 'last_heartbeat', time)
    call('EXPIRE', key, ttl)
    call('EXPIRE', key .. ':executions', ttl)
    for _, claim in ipairs(call('SMEMBERS', key .. ':executions')) do renew(ARGV[i], claim) end
  end
end
return overdue
