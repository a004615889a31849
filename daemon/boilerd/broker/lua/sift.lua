-- Find, among the tasks that wait for their time, those that failed before, or those that did not: RQ has one registry
-- for both.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 queue, 4 '1' for those that failed before, '0' for the others, 5 from which place
--   on, 6 how many to look at, 7 how many to return at most.
-- Returns {how many were looked at, 1 where the registry ends with them, ID and score of the last of these, then of
--   each that was found, in turn}; {0, 1} where the registry ends before that place. {-1}: a key of another kind stands
--   there.
-- Reads: rq:scheduled:Q, rq:job:ID. Writes nothing.

local scheduled, wanted = RQ .. ':scheduled:' .. ARGV[3], tonumber(ARGV[4])
local first, looks, most = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local found, looked = {0, 1}, 0

if not is_kind(scheduled, 'zset') then return {-1} end
-- Without their scores, which Redis would write as text for each of them.
local ids = call('ZRANGE', scheduled, first, first + looks - 1)
if #ids == 0 then return found end
found[3], found[4] = '', ''
for _, id in ipairs(ids) do
  looked = looked + 1
  -- A record that is gone, or is none, is that of no retry.
  local has_failed = redis.pcall('HEXISTS', RQ .. ':job:' .. id, 'last_failed_at') == 1 and 1 or 0
  if has_failed == wanted then
    found[#found + 1] = id
    found[#found + 1] = call('ZSCORE', scheduled, id)
    if #found > 2 * most + 2 then break end
  end
end
found[1], found[2] = looked, looked == #ids and #ids < looks and 1 or 0
found[3], found[4] = ids[looked], call('ZSCORE', scheduled, ids[looked])
return found
