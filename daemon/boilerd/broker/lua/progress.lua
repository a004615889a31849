-- Show how far a running task is, if its lease is still held.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 job ID, 4 execution ID, 5 queue, 6 the progress as JSON.
-- Returns 1, or 0 if nothing was written: the lease was gone, or RQ's tools cancelled or deleted the task.
-- Touches: rq:wip:Q (read), rq:job:ID (progress: started_at, a space, the JSON).
--   Nobody takes it away at the end of the attempt, which would be a command more for each task: it counts only while
--   the job's started_at is the one in it.

local key = RQ .. ':job:' .. ARGV[3]
local fields = fields_of(key, 'status', 'started_at')
if fields[1] ~= 'started' or not is_held(ARGV[3], ARGV[4], ARGV[5]) then return 0 end
call('HSET', key, 'progress', (fields[2] or '') .. ' ' .. ARGV[6])
return 1
