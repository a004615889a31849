-- End claims without an outcome: the tasks go back to the heads of their queues, in their
-- order, and the attempts do not count.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 'all but' or 'only', then execution IDs.
-- Returns the job IDs that went back. Claims whose lease another process took over are
--   dropped and not returned.
-- Touches: rq:worker:W:executions (SREM), and for each claim in it rq:wip:Q, rq:execution:ID:EID,
--   rq:executions:ID, rq:job:ID (status queued), rq:queue:Q (LPUSH), rq:queues, boilerd:queues (SADD),
--   boilerd:bell:Q.

local worker, is_named, names_those = ARGV[3], {}, ARGV[4] == 'only'
for i = 5, #ARGV do is_named[ARGV[i]] = true end
local held = {}
for _, claim in ipairs(own_call('SMEMBERS', RQ .. ':worker:' .. worker .. ':executions')) do
  local job, eid = claim:match('^(.*):([^:]*)$')
  if not job then
    call('SREM', RQ .. ':worker:' .. worker .. ':executions', claim)
  elseif (is_named[eid] or false) == names_those then
    local fields = fields_of(RQ .. ':job:' .. job, 'origin', 'started_at', 'cancel_requested', 'status',
      'worker_name')
    held[#held + 1] = {job = job, eid = eid, queue = fields[1], started = fields[2] or '', is_cancelled = fields[3],
      is_started = runs_with(worker, fields[4], fields[5]),
      place = tonumber(eid:match('-(%d+)$') or 0)}
  end
end
-- The one claimed last is pushed first, so that the one claimed first is at the head in the end.
table.sort(held, function(a, b)
  if a.started == b.started then return a.place > b.place end
  return a.started > b.started
end)

local released = {}
for _, claim in ipairs(held) do
  local is_ours = claim.queue and is_held(claim.job, claim.eid, claim.queue)
  if is_ours and not claim.is_started then
    -- RQ's tools cancelled it while it ran.
    drop_claim(claim.job, claim.eid, claim.queue, worker)
  elseif is_ours and claim.is_cancelled then
    -- It would wait from now on, and a task that waits is deleted when it is cancelled.
    drop_claim(claim.job, claim.eid, claim.queue, worker)
    delete(claim.job)
  elseif is_ours then
    own_call('LLEN', RQ .. ':queue:' .. claim.queue) -- it must get somewhere
    push(claim.queue, claim.job, true)
    drop_claim(claim.job, claim.eid, claim.queue, worker)
    released[#released + 1] = claim.job
  else
    -- Another process took it over, or it is gone.
    call('SREM', RQ .. ':worker:' .. worker .. ':executions', claim.job .. ':' .. claim.eid)
  end
end
return released
