-- Keep the result so far of a running task, if its lease is still held.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 job ID, 4 execution ID, 5 queue, 6 result as JSON.
-- Returns 1, or 0 if nothing was written: the lease was gone, or RQ's tools cancelled or deleted the task.
-- Touches: rq:wip:Q (read), rq:job:ID (result).

if not is_held(ARGV[3], ARGV[4], ARGV[5]) or not is_started(ARGV[3]) then return 0 end
call('HSET', RQ .. ':job:' .. ARGV[3], 'result', ARGV[6])
return 1
