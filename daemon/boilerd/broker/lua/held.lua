-- List the claims that a worker holds a lease of.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name.
-- Returns for each claim {job ID, execution ID, queue, the job hash as names and values in turn}.
-- Touches nothing.

local found = {}
for _, claim in ipairs(own_call('SMEMBERS', RQ .. ':worker:' .. ARGV[3] .. ':executions')) do
  local job, eid = claim:match('^(.*):([^:]*)$')
  local key = RQ .. ':job:' .. (job or '')
  local queue = job and fields_of(key, 'origin')[1]
  if queue and is_held(job, eid, queue) then found[#found + 1] = {job, eid, queue, call('HGETALL', key)} end
end
return found
