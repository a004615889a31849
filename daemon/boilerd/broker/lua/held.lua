-- List claims that a worker holds a lease of: a hundred of them, or those that are named.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, then the job ID:execution ID of each claim; none: all.
-- Returns {claims, rest}: for each claim {job ID, execution ID, queue, the job hash as names and values in turn}; and the
--   job ID:execution ID of those that were not looked at.
-- Touches nothing.

local MOST = 100
local found, rest = {}, {}
local claims = #ARGV > 3 and {unpack(ARGV, 4)} or own_call('SMEMBERS', RQ .. ':worker:' .. ARGV[3] .. ':executions')
for i, claim in ipairs(claims) do
  if i > MOST then
    rest[#rest + 1] = claim
  else
    local job, eid = claim:match('^(.*):([^:]*)$')
    local key = RQ .. ':job:' .. (job or '')
    local queue = job and fields_of(key, 'origin')[1]
    if queue and is_held(job, eid, queue) then found[#found + 1] = {job, eid, queue, call('HGETALL', key)} end
  end
end
return {found, rest}
