-- End a claim with a failed attempt: the task goes to the archive, with its error.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 job ID, 5 execution ID, 6 queue,
--   7 started (epoch), 8 error in one line, 9 traceback (base64 of zlib),
--   10 seconds to keep it, 11 how many the archive of a queue may hold.
-- Returns 1, or 0 when the lease was gone and nothing was written.
-- Touches: rq:wip:Q, rq:execution:ID:EID, rq:executions:ID, rq:worker:W:executions, rq:worker:W,
--   rq:job:ID (status failed, last_error, last_failed_at, EXPIRE), rq:results:ID (XADD, EXPIRE),
--   rq:failed:Q (ZADD, score = when it expires), boilerd:stats:Q:DAY; and beyond the limit,
--   rq:job:ID, rq:results:ID (DEL) and rq:failed:Q of the ones that expire first.

local worker, job, eid, queue = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local started, ttl, limit = tonumber(ARGV[7]), tonumber(ARGV[10]), tonumber(ARGV[11])
local seconds = now()
local archive = RQ .. ':failed:' .. queue

if not drop_claim(job, eid, queue, worker) then return 0 end
local key = RQ .. ':job:' .. job
call('HSET', key, 'status', 'failed', 'ended_at', iso(seconds), 'last_error', ARGV[8], 'last_failed_at', iso(seconds))
call('EXPIRE', key, ttl)
record(job, eid, worker, 2, started, seconds, 'exc_string', ARGV[9])
call('EXPIRE', RQ .. ':results:' .. job, ttl)
call('ZADD', archive, stamp(seconds + ttl), job)
while call('ZCARD', archive) > limit do delete(call('ZPOPMIN', archive)[1]) end
count(queue, seconds, true)
count_on_worker(worker, 'failed_job_count', seconds - started)
return 1
