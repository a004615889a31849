-- Renew what RQ's tools see of attempts of a worker with several slots, whose leases renew.lua renews.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, then the job ID:execution ID of each claim.
-- Returns nothing.
-- Touches for each claim that still holds: rq:execution:ID:EID, rq:executions:ID (ZADD, EXPIRE: a day),
--   boilerd:running:KEY (ZADD, EXPIRE: a day), rq:job:ID (last_heartbeat).

local worker, seconds = ARGV[3], now()
local time = iso(seconds)
for i = 4, #ARGV do
  local job, eid = ARGV[i]:match('^(.*):([^:]*)$')
  local fields = fields_of(RQ .. ':job:' .. (job or ''), 'status', 'worker_name', 'origin', 'concurrency_key')
  if fields[3] and runs_with(worker, fields[1], fields[2]) and is_held(job, eid, fields[3]) then
    renew_records(worker, job, eid, fields[4], seconds, time)
  end
end
