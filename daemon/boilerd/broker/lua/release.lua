-- End claims without an outcome: the tasks go back to the heads of their queues, in their order, and the attempts do
-- not count.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 'all but' or 'only', then the execution IDs that stay, or that
--   alone go back.
-- Returns the IDs of the jobs that went back. Claims whose lease another process ended are dropped and not returned.
-- Touches: rq:worker:W:executions (SREM), and for each claim in it rq:wip:Q, rq:execution:ID:EID,
--   rq:executions:ID, rq:job:ID (status queued), rq:queue:Q (LPUSH), rq:queues, boilerd:queues (SADD),
--   boilerd:bell:Q.

local worker, is_only, is_named = ARGV[3], ARGV[4] == 'only', {}
local claims_key = RQ .. ':worker:' .. worker .. ':executions'
for i = 5, #ARGV do is_named[ARGV[i]] = true end
local held = {}
for _, claim in ipairs(own_call('SMEMBERS', claims_key)) do
  local job, eid = claim:match('^(.*):([^:]*)$')
  if not job then
    call('SREM', claims_key, claim)
  elseif (is_named[eid] or false) == is_only then
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
  local has_lease = claim.queue and is_held(claim.job, claim.eid, claim.queue)
  if has_lease and not claim.is_started then
    -- RQ's tools cancelled it while it ran.
    drop_claim(claim.job, claim.eid, claim.queue, worker)
  elseif has_lease and claim.is_cancelled then
    -- Back in its queue it would wait, and cancelling a task that waits means to delete it.
    drop_claim(claim.job, claim.eid, claim.queue, worker)
    delete(claim.job)
  elseif has_lease then
    own_call('LLEN', RQ .. ':queue:' .. claim.queue) -- the task must not end nowhere
    push(claim.queue, claim.job, true)
    drop_claim(claim.job, claim.eid, claim.queue, worker)
    released[#released + 1] = claim.job
  else
    -- Another process ended the claim, or the job is gone.
    call('SREM', claims_key, claim.job .. ':' .. claim.eid)
  end
end
return released
