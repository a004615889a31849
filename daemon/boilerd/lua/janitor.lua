-- Delete what outlived its retention, from the registries that RQ's own tools list.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many at most, then names of queues that count as known.
-- Returns how many were removed.
-- Touches for every queue in boilerd:queues and ARGV: rq:failed:Q, rq:finished:Q (ZREM), rq:job:ID, rq:results:ID (DEL),
--   boilerd:unique:…, boilerd:archived:Q (ZREM).

local limit = tonumber(ARGV[3])
local seconds = now()
local removed = 0

for _, queue in ipairs(served(4)) do
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
