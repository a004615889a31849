-- Delete what outlived its retention, from the registries that RQ's own tools list, and the names of workers whose
-- records have expired, as RQ's workers do for theirs.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many at most, then names of queues that count as known.
-- Returns how many were removed.
-- Touches for every queue in boilerd:queues and ARGV: rq:failed:Q, rq:finished:Q (ZREM), rq:job:ID, rq:results:ID
--   (DEL), boilerd:unique:…, boilerd:archived:Q (ZREM), rq:workers:Q (SREM); rq:workers (SREM).

-- What a live worker holds is left alone: it registers again with its next claim.
local function forget_expired(workers)
  if not is_kind(workers, 'set') then return end
  for _, key in ipairs(call('SMEMBERS', workers)) do
    if call('EXISTS', key) == 0 then call('SREM', workers, key) end
  end
end

forget_expired(RQ .. ':workers')
local queues = served(4)
for _, queue in ipairs(queues) do forget_expired(RQ .. ':workers:' .. queue) end

local limit = tonumber(ARGV[3])
local seconds = now()
local removed = 0

for _, queue in ipairs(queues) do
  own_call('ZREMRANGEBYSCORE', OWN .. ':archived:' .. queue, '-inf', stamp(seconds)) -- also what RQ's tools deleted
  for _, kind in ipairs({'failed', 'finished'}) do
    local registry = RQ .. ':' .. kind .. ':' .. queue
    -- From 0: RQ keeps jobs with the score -1 for ever.
    local old = is_kind(registry, 'zset')
      and call('ZRANGEBYSCORE', registry, 0, stamp(seconds), 'LIMIT', 0, limit - removed) or {}
    for _, job in ipairs(old) do forget(kind, queue, job) end
    removed = removed + #old
    if removed >= limit then return removed end
  end
end
return removed
