-- Delete completed, archived and cancelled tasks of a slice of the queues whose retention is over, and the names of
-- workers whose records have expired, as RQ's workers do for theirs.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many tasks at most, 4 cursor of the slice (see `served`), then names of
--   queues that count as known.
-- Returns {how many tasks were removed, cursor of the next slice}.
-- Touches for every queue of the slice: rq:failed:Q, rq:finished:Q, rq:canceled:Q (ZREM), rq:job:ID, rq:results:ID
--   (DEL), boilerd:unique:…, boilerd:archived:Q (ZREM), rq:workers:Q (SREM); rq:workers (SREM).

local queues, cursor = served(ARGV[4], 5)
local sample = math.ceil(SLICE / #queues)

-- Some of the workers, others each time, are looked at. A live one whose record expired loses its name only, no claim:
-- it registers again with its next claim.
local function forget_expired(workers)
  for _, key in ipairs(redis.pcall('SRANDMEMBER', workers, sample)) do
    if call('EXISTS', key) == 0 then call('SREM', workers, key) end
  end
end

forget_expired(RQ .. ':workers')

local limit = tonumber(ARGV[3])
local seconds = now()
local removed = 0

-- RQ keeps jobs that its tools cancelled for ever. Ours go when an archived task would. Some of them, others each time,
-- are looked at: beside them may stand any number of jobs of plain RQ, which are left alone.
local function forget_canceled(queue)
  local canceled = RQ .. ':canceled:' .. queue
  local found = redis.pcall('ZRANDMEMBER', canceled, sample, 'WITHSCORES')
  for i = 1, #found, 2 do
    local fields = fields_of(RQ .. ':job:' .. found[i], 'task_type', 'failure_ttl')
    local ttl = fields[1] and tonumber(fields[2] or ARCHIVE_TTL_S) or -1
    if ttl >= 0 and tonumber(found[i + 1]) + ttl <= seconds then
      forget('canceled', queue, found[i])
      removed = removed + 1
    end
  end
end

local kinds = {RQ .. ':workers:', RQ .. ':failed:', RQ .. ':finished:', RQ .. ':canceled:', OWN .. ':archived:'}
for _, queue in ipairs(with_any(queues, unpack(kinds))) do
  forget_expired(RQ .. ':workers:' .. queue)
  own_call('ZREMRANGEBYSCORE', OWN .. ':archived:' .. queue, '-inf', stamp(seconds)) -- also tasks that RQ's tools deleted
  for _, registry in ipairs({'failed', 'finished'}) do
    local key = RQ .. ':' .. registry .. ':' .. queue
    -- From 0: RQ keeps jobs with the score -1 for ever.
    local old = redis.pcall('ZRANGEBYSCORE', key, 0, stamp(seconds), 'LIMIT', 0, limit - removed)
    for _, job in ipairs(old) do forget(registry, queue, job) end
    removed = removed + #old
    if removed >= limit then return {removed, cursor} end
  end
  forget_canceled(queue)
  if removed >= limit then return {removed, cursor} end
end
return {removed, cursor}
