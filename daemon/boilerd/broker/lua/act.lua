-- Run tasks now, archive them or delete them, as a person asks.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 'run', 'archive' or 'delete',
--   4 at which place of their queue's list the first of the jobs was found, 0 for a job that one names; 5 to 8 who does
--   it, as audit.lua has it, for one job that one names; then job IDs, of one queue.
-- Returns for each job 'done'; 'blank': done, and its place in the queue's list holds a blank; 'unknown'; the state
--   that forbids it: 'pending', 'active', 'scheduled', 'completed', 'archived', or RQ's word for one of its own; or
--   'locked ID': the task is to run again, and meanwhile that other one holds its unique lock. Behind these stands why
--   the audit has no entry, where it should have one.
-- Touches: rq:queue:Q (LREM, LSET, RPUSH), rq:scheduled:Q, rq:failed:Q, rq:finished:Q (ZREM), boilerd:archived:Q (ZREM),
--   boilerd:waiting:KEY, boilerd:aside:Q, boilerd:called:KEY (ZREM), rq:job:ID (status; PERSIST, EXPIRE, DEL), rq:results:ID
--   (PERSIST, EXPIRE, DEL), rq:job:ID:dependents (PERSIST, DEL, and as in fail.lua), rq:queues, boilerd:queues,
--   boilerd:bell:Q, boilerd:unique:…, boilerd:audit.
--   A task that is run again keeps its count of retries: when they are used up, it gets one attempt. It takes its unique
--   lock again.

local action, first_place = ARGV[3], tonumber(ARGV[4])
local BY, FIRST_ID = 5, 9
local allowed = ALLOWED_STATUSES[action]
local seconds = now()

-- Take the task out of the place that its status names; false if it is not there.
local function take(job, status, queue, key)
  if status ~= 'queued' then return count_removed('ZREM', RQ .. ':' .. REGISTRY_OF[status] .. ':' .. queue, job) == 1 end
  if key then count_removed('ZREM', OWN .. ':called:' .. key, job) end
  return key and stop_waiting(queue, key, job) == 1 or strike(queue, job, first_place, #ARGV - FIRST_ID)
end

-- The other task that has the lock of an archived one.
local function rival_of(job)
  local lock = fields_of(RQ .. ':job:' .. job, 'unique_key')[1]
  local holder = lock and holder_of(lock)
  return holder and holder ~= job and holder
end

-- Have an archived task hold its lock again, until it ends, and its TTL from now on at most. A lock that lasts until its
-- TTL is over counts from the enqueue.
local function lock_again(job)
  local lock, unique_until, unique_s = unpack(fields_of(RQ .. ':job:' .. job, 'unique_key', 'unique_until', 'unique_s'))
  local ttl_s = tonumber(unique_s or 0) or 0
  if not lock or unique_until == 'ttl' or ttl_s <= 0 or redis.pcall('GET', lock) == job then return end
  call('SET', lock, job, 'PX', math.ceil(ttl_s * 1000))
end

local function act(job)
  local job_key = RQ .. ':job:' .. job
  if call('TYPE', job_key).ok ~= 'hash' then return 'unknown' end
  local fields = call('HMGET', job_key, 'status', 'origin', 'concurrency_key', 'last_error')
  local status, queue, key = fields[1] or 'broken', fields[2] or '', fields[3]
  if not allowed[status] then return STATE_OF[status] or status end
  local is_revived = action == 'run' and status == 'failed'
  local rival = is_revived and rival_of(job)
  if rival then return 'locked ' .. rival end
  -- The place where the task is to go: a foreign key there is an error before the task is taken.
  if action == 'archive' then call('ZCARD', RQ .. ':failed:' .. queue) end
  if action == 'run' then call('LLEN', RQ .. ':queue:' .. queue) end
  if not take(job, status, queue, key) then return STATE_OF[status] or status end
  if status == 'failed' then unarchive(queue, job) end
  if action == 'delete' then
    delete(job)
  elseif action == 'run' then
    call('PERSIST', job_key)
    call('PERSIST', RQ .. ':results:' .. job)
    call('PERSIST', job_key .. ':dependents')
    call('HDEL', job_key, 'ended_at')
    if is_revived then lock_again(job) end
    call('HSET', job_key, 'enqueued_at', iso(seconds))
    push(queue, job, false)
  else
    if not fields[4] then call('HSET', job_key, 'last_error', 'archived by hand', 'last_failed_at', iso(seconds)) end
    archive(queue, job, seconds, nil)
  end
  if key and status == 'queued' then call_waiting(key, seconds) end
  return is_blank and 'blank' or 'done'
end

local answers = {}
for i = FIRST_ID, #ARGV do
  is_blank = false
  answers[#answers + 1] = act(ARGV[i])
end
answers[#answers + 1] = note_answer(BY, action, answers[1])
return answers
