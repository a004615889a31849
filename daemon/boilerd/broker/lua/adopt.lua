-- Write anew which claims of a queue workers hold, and renew their leases: where Redis's clock was put forward by a day
-- or more, the sets of claims have expired at once, and no heartbeat would renew what stands there.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 queue, 4 cursor of the slice of its claims ('0': the first), then worker names.
-- Returns {how many claims of the slice they hold, cursor of the next slice: '0' after the last}.
-- Touches rq:wip:Q (ZADD XX), and for each of its claims that one of the workers has, as its job hash says:
--   rq:worker:W:executions (SADD, EXPIRE: a day).

local wip = RQ .. ':wip:' .. ARGV[3]
local seconds, adopted, is_asked = now(), 0, {}
for i = 5, #ARGV do is_asked[ARGV[i]] = true end
if not is_kind(wip, 'zset') then return {0, '0'} end

local cursor, found = unpack(call('ZSCAN', wip, ARGV[4], 'COUNT', SLICE))
for i = 1, #found, 2 do
  local claim = found[i]
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
return {adopted, cursor}
