-- Note that a running task is to be cancelled.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 job ID.
-- Returns 1, or 0 if the task does not run.
-- Touches: rq:job:ID (cancel_requested).

local key = RQ .. ':job:' .. ARGV[3]
if call('TYPE', key).ok ~= 'hash' or call('HGET', key, 'status') ~= 'started' then return 0 end
call('HSET', key, 'cancel_requested', 1)
return 1
