-- List claims whose lease ran out: their hosts are gone, or cut off. And call tasks that wait for a concurrency key.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many at most, then names of queues that count as known.
-- Returns for each claim {worker name ('' if unknown), job ID, execution ID, queue, the job hash as names and values
--   in turn}. Claims of jobs that exist no longer are dropped, and not returned.
-- Touches for every queue in boilerd:queues and ARGV: rq:wip:Q (reads; ZREM where the job is gone; ZADD where the
--   lease ends later than any that Redis's clock allows), rq:execution:ID:EID (DEL with its claim); for every key in
--   boilerd:keys: boilerd:waiting:KEY (ZREM), boilerd:called:KEY (ZADD), and rq:queue:Q (LINSERT), rq:queues,
--   boilerd:queues (SADD) of the tasks that may run.

-- For every key for which tasks wait: a call may have been lost together with a job that was deleted.
for _, key in ipairs(own_call('SMEMBERS', OWN .. ':keys')) do call_waiting(key, now()) end

local limit = tonumber(ARGV[3])
local seconds = now()
local found = {}

-- Claims whose lease ran out, those without the offset first, which other workers wrote.
local function lapsed_in(wip, most)
  local lapsed = call('ZRANGEBYSCORE', wip, '-inf', stamp(seconds), 'LIMIT', 0, most)
  local ours = call('ZRANGEBYSCORE', wip, lease_score(0), lease_score(seconds), 'LIMIT', 0, most - #lapsed)
  for _, claim in ipairs(ours) do lapsed[#lapsed + 1] = claim end
  return lapsed
end

-- Leases that end later than any that may be given now were given before Redis's clock was put back: without this
-- nobody would take a dead worker's tasks for so long. They end in the time of one lease, and whoever lives renews them.
local function shorten_leases(wip)
  local least = lease_score(seconds + LEASE_S + 1)
  for _, claim in ipairs(call('ZRANGEBYSCORE', wip, least, '(+inf', 'LIMIT', 0, limit)) do
    call('ZADD', wip, 'XX', lease_score(seconds + LEASE_S), claim)
  end
end

for _, queue in ipairs(served(4)) do
  local wip = RQ .. ':wip:' .. queue
  local is_used = call('TYPE', wip).ok == 'zset'
  local lapsed = is_used and lapsed_in(wip, limit - #found) or {}
  if is_used then shorten_leases(wip) end
  for _, claim in ipairs(lapsed) do
    local job, eid = claim:match('^(.*):([^:]*)$')
    if not job or call('TYPE', RQ .. ':job:' .. job).ok ~= 'hash' then
      local key = fields_of(RQ .. ':execution:' .. claim, 'concurrency_key')[1]
      call('ZREM', wip, claim)
      call('DEL', RQ .. ':execution:' .. claim)
      if key then leave_key(job, key, seconds) end
    else
      local worker = call('HGET', RQ .. ':job:' .. job, 'worker_name') or ''
      found[#found + 1] = {worker, job, eid, queue, call('HGETALL', RQ .. ':job:' .. job)}
    end
  end
  if #found >= limit then return found end
end
return found
