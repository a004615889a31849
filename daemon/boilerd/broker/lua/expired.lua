-- List claims of a slice of the queues whose lease ran out: their hosts are gone, or cut off.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many at most, 4 cursor of the slice (see `served`), then names of queues
--   that count as known.
-- Returns {claims, cursor of the next slice}. Of each claim {worker name ('' if unknown), job ID, execution ID, queue,
--   the job hash as names and values in turn}. Claims of jobs that exist no longer are dropped, and not returned.
-- Touches for every queue of the slice: rq:wip:Q (reads; ZREM where the job is gone; ZADD where the lease ends later
--   than any that Redis's clock allows), rq:execution:ID:EID (DEL with its claim), boilerd:aside:Q (ZREM); where a
--   claim is dropped that had a concurrency key, the keys that waiting.lua names.

local limit = tonumber(ARGV[3])
local seconds = now()
local found = {}
local queues, cursor = served(ARGV[4], 5)
local sample = math.ceil(SLICE / #queues)

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

-- RQ's tools delete and cancel tasks that wait for a concurrency key, and leave their IDs. Some of those that wait,
-- others each time, are looked at for that.
local function forget_gone(queue)
  local aside = OWN .. ':aside:' .. queue
  for _, job in ipairs(own_call('ZRANDMEMBER', aside, sample)) do
    local fields = fields_of(RQ .. ':job:' .. job, 'status', 'origin', 'concurrency_key')
    local waits = fields[1] == 'queued' and fields[2] == queue and fields[3]
    if not waits or not own_call('ZSCORE', OWN .. ':waiting:' .. fields[3], job) then call('ZREM', aside, job) end
  end
end

for _, queue in ipairs(with_any(queues, RQ .. ':wip:', OWN .. ':aside:')) do
  forget_gone(queue)
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
  if #found >= limit then break end
end
return {found, cursor}
