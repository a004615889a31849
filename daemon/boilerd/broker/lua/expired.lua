-- List claims whose lease ran out: their hosts are gone, or cut off. And call tasks that wait for a concurrency key.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many at most, then names of queues that count as known.
-- Returns for each claim {worker name ('' if unknown), job ID, execution ID, queue, the job hash as names and values
--   in turn}. Claims of jobs that exist no longer are dropped, and not returned.
-- Touches for every queue in boilerd:queues and ARGV: rq:wip:Q (reads; ZREM where the job is gone); for every key in
--   boilerd:keys: boilerd:waiting:KEY (ZREM), boilerd:called:KEY (ZADD), and rq:queue:Q (LINSERT), rq:queues,
--   boilerd:queues (SADD) of the tasks that may run.

-- For every key for which tasks wait: a call may have been lost together with a job that was deleted.
for _, key in ipairs(own_call('SMEMBERS', OWN .. ':keys')) do call_waiting(key, now()) end

local limit = tonumber(ARGV[3])
local seconds = now()
local found = {}

for _, queue in ipairs(served(4)) do
  local wip = RQ .. ':wip:' .. queue
  local lapsed = is_kind(wip, 'zset')
    and call('ZRANGEBYSCORE', wip, '-inf', stamp(seconds), 'LIMIT', 0, limit - #found) or {}
  for _, claim in ipairs(lapsed) do
    local job, eid = claim:match('^(.*):([^:]*)$')
    if not job or call('TYPE', RQ .. ':job:' .. job).ok ~= 'hash' then
      local key = fields_of(RQ .. ':execution:' .. claim, 'concurrency_key')[1]
      call('ZREM', wip, claim)
      if key then leave_key(job, key, seconds) end
    else
      local worker = call('HGET', RQ .. ':job:' .. job, 'worker_name') or ''
      found[#found + 1] = {worker, job, eid, queue, call('HGETALL', RQ .. ':job:' .. job)}
    end
  end
  if #found >= limit then return found end
end
return found
