-- Write anew which claims workers hold, and renew their leases: where Redis's clock was put forward by a day or more,
-- the sets of claims have expired at once, and no heartbeat would renew what stands there.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 number of workers, then their names, then names of their queues.
-- Returns how many claims they hold.
-- Touches for each queue rq:wip:Q (ZADD XX), and for each of its claims that one of the workers has, as its job hash
--   says: rq:worker:W:executions (SADD, EXPIRE: a day).

local seconds, adopted, is_asked = now(), 0, {}
local first_queue = 4 + tonumber(ARGV[3])
for i = 4, first_queue - 1 do is_asked[ARGV[i]] = true end

for i = first_queue, #ARGV do
  local wip = RQ .. ':wip:' .. ARGV[i]
  for _, claim in ipairs(is_kind(wip, 'zset') and call('ZRANGE', wip, 0, -1) or {}) do
    local job = claim:match('^(.*):[^:]*$')
    local fields = fields_of(RQ .. ':job:' .. (job or ''), 'status', 'worker_name')
    local worker = fields[1] == 'started' and fields[2]
    if worker and is_asked[worker] then
      own_call('SADD', RQ .. ':worker:' .. worker .. ':executions', claim)
      call('EXPIRE', RQ .. ':worker:' .. worker .. ':executions', CLAIMS_TTL_S)
      call('ZADD', wip, 'XX', lease_score(seconds + LEASE_S), claim)
      adopted = adopted + 1
    end
  end
end
return adopted
