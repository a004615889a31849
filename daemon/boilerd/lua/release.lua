-- End claims without an outcome: the tasks go back to the heads of their queues, in their
-- order, and the attempts do not count.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, then execution IDs that stay with it.
-- Returns the job IDs that went back. Claims whose lease another process took over are
--   dropped and not returned.
-- Touches: rq:worker:W:executions (SREM), and for each claim in it rq:wip:Q, rq:execution:ID:EID,
--   rq:executions:ID, rq:job:ID (status queued), rq:queue:Q (LPUSH), boilerd:bell:Q.

local worker = ARGV[3]
local held, stays = {}, {}
for i = 4, #ARGV do stays[ARGV[i]] = true end
for _, claim in ipairs(call('SMEMBERS', RQ .. ':worker:' .. worker .. ':executions')) do
  local job, eid = claim:match('^(.*):([^:]*)$')
  local started = tonumber(call('HGET', RQ .. ':execution:' .. claim, 'created_at') or 0)
  if not stays[eid] then held[#held + 1] = {job = job, eid = eid, started = started} end
end
-- The one claimed last is pushed first, so that the one claimed first is at the head in the end.
table.sort(held, function(a, b) return a.started > b.started end)

local released = {}
for _, claim in ipairs(held) do
  local key = RQ .. ':job:' .. claim.job
  local queue = call('HGET', key, 'origin')
  if queue and is_held(claim.job, claim.eid, queue) and call('HEXISTS', key, 'cancel_requested') == 1 then
    -- It would wait from now on, and a task that waits is deleted when it is cancelled.
    drop_claim(claim.job, claim.eid, queue, worker)
    delete(claim.job)
  elseif queue and is_held(claim.job, claim.eid, queue) then
    push(queue, claim.job, true)
    drop_claim(claim.job, claim.eid, queue, worker)
    released[#released + 1] = claim.job
  else
    -- Another process took it over, or it is gone.
    call('SREM', RQ .. ':worker:' .. worker .. ':executions', claim.job .. ':' .. claim.eid)
  end
end
return released
