-- End claims without an outcome: the tasks go back to the heads of their queues, in their order, and the attempts do
-- not count.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 which claims go back:
--   'all but' or 'only', then the execution IDs that stay, or that alone go back;
--   'turn', then the worker's life, the number of a call of serve.lua and how its execution IDs begin: what that call has
--     claimed; if Redis has not run it yet, it will claim nothing;
--   'these' or 'doubtful', then for each job ID, execution ID and queue: the first ends nearest to the head. Those that
--     are doubtful are suspects from now on, see serve.lua.
-- Returns the IDs of the jobs that went back; nil, where of very many claims all are to be looked at, and none was. Claims whose lease another process ended are dropped and not returned.
-- Touches: rq:worker:W:executions (SREM), rq:worker:W (turn), and for each claim rq:wip:Q, rq:execution:ID:EID,
--   rq:executions:ID, rq:job:ID (status queued, alone), rq:queue:Q (LPUSH), rq:queues, boilerd:queues (SADD),
--   boilerd:bell:Q.

local worker, which = ARGV[3], ARGV[4]
local worker_key = RQ .. ':worker:' .. worker
local claims_key = worker_key .. ':executions'
local released = {}

-- The claim with what its job says of it.
local function claim_of(job, eid, queue)
  local fields = fields_of(RQ .. ':job:' .. job, 'origin', 'started_at', 'cancel_requested', 'status', 'worker_name')
  return {job = job, eid = eid, queue = queue or fields[1], started = fields[2] or '', is_cancelled = fields[3],
    is_started = runs_with(worker, fields[4], fields[5]), place = tonumber(eid:match('-(%d+)$') or 0)}
end

local function give_back(claim)
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
    if which == 'doubtful' then suspect(claim.job) end
    drop_claim(claim.job, claim.eid, claim.queue, worker)
    released[#released + 1] = claim.job
  else
    -- Another process ended the claim, or the job is gone.
    call('SREM', claims_key, claim.job .. ':' .. claim.eid)
  end
end

-- Have serve.lua refuse the call of this number, and those before it. Where the record is gone it refuses all.
local function refuse_call(life, turn)
  local known = fields_of(worker_key, 'life', 'turn')
  if known[1] == life and tonumber(turn) > (tonumber(known[2]) or 0) then call('HSET', worker_key, 'turn', turn) end
end

if which == 'these' or which == 'doubtful' then
  for i = #ARGV - 2, 5, -3 do give_back(claim_of(unpack(ARGV, i, i + 2))) end
  return released
end

local is_named, beginning = {}, nil
if which == 'turn' then
  refuse_call(ARGV[5], ARGV[6])
  beginning = ':' .. ARGV[7]
end
for i = 5, #ARGV do is_named[ARGV[i]] = true end

local function goes_back(eid)
  return beginning or (is_named[eid] or false) == (which == 'only')
end

local claims, held = own_call('SMEMBERS', claims_key), {}
if not beginning and #claims > MOST_GIVEN_BACK then return false end
for _, claim in ipairs(claims) do
  -- There may be thousands of other turns.
  if not beginning or claim:find(beginning, 1, true) then
    local job, eid = claim:match('^(.*):([^:]*)$')
    if not job then
      call('SREM', claims_key, claim)
    elseif goes_back(eid) then
      held[#held + 1] = claim_of(job, eid)
    end
  end
end
-- The one claimed last is pushed first, so that the one claimed first is at the head in the end.
table.sort(held, function(a, b)
  if a.started == b.started then return a.place > b.place end
  return a.started > b.started
end)
for _, claim in ipairs(held) do give_back(claim) end
return released
