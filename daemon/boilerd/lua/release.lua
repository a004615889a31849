-- End claims without an outcome: the tasks go back to the heads of their queues, in their
-- order, and the attempts do not count.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name.
-- Returns the job IDs that went back. Claims whose lease another process took over are
--   dropped and not returned.
-- Touches: rq:worker:W:executions (DEL), and for each claim in it rq:wip:Q, rq:execution:ID:EID,
--   rq:executions:ID, rq:job:ID (status queued), rq:queue:Q (LPUSH), boilerd:bell:Q.

local worker = ARGV[3]
local held = {}
for _, claim in ipairs(call('SMEMBERS', RQ .. ':worker:' .. worker .. ':executions')) do
  local job, eid = claim:match('^(.*):([^:]*)$')
  local started = tonumber(call('HGET', RQ .. ':execution:' .. claim, 'created_at') or 0)
  held[#held + 1] = {job = job, eid = eid, started = started}
end
-- The one claimed last is pushed first, so that the one claimed first is at the head in the end.
table.sort(held, function(a, b) return a.started > b.started end)

local released = {}
for _, claim in ipairs(held) do
  local key = RQ .. ':job:' .. claim.job
  local queue = call('HGET', key, 'origin')
  if queue and drop_claim(claim.job, claim.eid, queue, worker) then
    call('HSET', key, 'status', 'queued')
    call('LPUSH', RQ .. ':queue:' .. queue, claim.job)
    ring(queue)
    released[#released + 1] = claim.job
  end
end
call('DEL', RQ .. ':worker:' .. worker .. ':executions')
return released
