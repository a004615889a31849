-- Renew the leases of live workers and their presence in RQ's registry.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, then for each worker its name; which claim it runs, as the first 7 digits of the
--   execution ID, '-' and its place in the batch ('': it runs none); its resident bytes and the milliseconds of CPU that
--   it used ('': not known).
-- Returns {overdue, unwanted}:
--   overdue: for each attempt that is past its timeout or deadline {worker name, job ID:execution ID, seconds past it,
--     seconds that it had};
--   unwanted: names of workers whose task still runs although it was cancelled, deleted or taken over.
-- Touches for each worker: rq:worker:W (last_heartbeat, rss, cpu_ms, EXPIRE), rq:worker:W:executions (EXPIRE: a day),
--   and for each claim in it rq:wip:Q (ZADD XX), rq:execution:ID:EID, rq:executions:ID,
--   boilerd:running:KEY (ZADD, EXPIRE), rq:job:ID (last_heartbeat).

local seconds = now()
local time = iso(seconds)
local overdue, unwanted = {}, {}

-- Renew one claim. A foreign value in one of its keys must not cost the other claims their leases.
local function renew(worker, claim)
  local job, eid = claim:match('^(.*):([^:]*)$')
  if not job then return end -- foreign
  local job_key = RQ .. ':job:' .. job
  local fields = fields_of(job_key, 'origin', 'timeout', 'deadline', 'concurrency_key', 'cancel_requested',
    'status', 'worker_name')
  -- XX: a lease that is gone was ended by the recoverer and must not come back.
  if not fields[1] or not runs_with(worker, fields[6], fields[7]) or not is_held(job, eid, fields[1]) then
    unwanted[#unwanted + 1] = worker
    return
  end
  call('ZADD', RQ .. ':wip:' .. fields[1], 'XX', lease_score(seconds + LEASE_S), claim)
  local execution_key = renew_records(worker, job, eid, fields[4], seconds, time)
  local started = tonumber(call('HGET', execution_key, 'created_at')) or seconds
  if started > seconds then -- Redis's clock was put back
    started = seconds
    call('HSET', execution_key, 'created_at', stamp(seconds))
  end
  local timeout, deadline = tonumber(fields[2] or -1), tonumber(fields[3] or 'inf')
  local ends = math.min(timeout and timeout > 0 and started + timeout or math.huge, deadline or math.huge)
  if fields[5] then unwanted[#unwanted + 1] = worker end
  if seconds > ends then overdue[#overdue + 1] = {worker, claim, stamp(seconds - ends), stamp(ends - started)} end
end

-- Whether the claim that the worker runs is among its claims: where RQ's tools delete a task that runs, they take the
-- claim as well, and nothing is left that could be renewed.
local function has_running(claims, running)
  for _, claim in ipairs(claims) do
    local batch, rest = claim:match(':(%x%x%x%x%x%x%x)([^:]*)$')
    if batch and batch .. '-' .. (rest:match('-(%d+)$') or '0') == running then return true end
  end
  return running == ''
end

for i = 3, #ARGV, 4 do
  local worker_key = RQ .. ':worker:' .. ARGV[i]
  -- The record may be gone: the worker registers itself again, and keeps its claims meanwhile.
  if call('EXPIRE', worker_key, WORKER_TTL_S) == 1 then show_life(worker_key, time, ARGV[i + 2], ARGV[i + 3]) end
  call('EXPIRE', worker_key .. ':executions', CLAIMS_TTL_S)
  local claims = own_call('SMEMBERS', worker_key .. ':executions')
  for _, claim in ipairs(claims) do renew(ARGV[i], claim) end
  if not has_running(claims, ARGV[i + 1]) then unwanted[#unwanted + 1] = ARGV[i] end
end
return {overdue, unwanted}
