-- Have tasks that wait run at another time, or in another queue, as a person asks.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 'reschedule' or 'move', 4 when it is due then, in seconds since 1970; or the queue;
--   5 at which place of their queue's list the first of the jobs was found, 0 for a job that one names; 6 to 9 who does
--   it, as audit.lua has it, for one job that one names; then job IDs, of one queue.
-- Returns for each job 'done', 'blank', 'unknown', or the state that forbids it, as of act.lua; and behind that why the
--   audit has no entry, or ''.
-- Touches: rq:queue:Q (LREM, LSET, RPUSH), rq:scheduled:Q (ZREM, ZADD), boilerd:waiting:KEY, boilerd:aside:Q, boilerd:called:KEY
--   (ZREM), rq:job:ID (status, origin, enqueued_at), rq:queues, boilerd:queues, boilerd:bell:Q, boilerd:alarm,
--   boilerd:unique:… (PEXPIRE), boilerd:audit. A lock that lasts for some time after a task is due is prolonged with it.

local what, value, first_place = ARGV[3], ARGV[4], tonumber(ARGV[5])
local BY, FIRST_ID = 6, 10
local seconds = now()

-- Take the task out of its place; its score there, or true where that has none; nil: it is not there.
local function take(job, status, queue, key)
  if status == 'scheduled' then
    local scheduled = RQ .. ':scheduled:' .. queue
    local due = call('ZSCORE', scheduled, job)
    if due then call('ZREM', scheduled, job) end
    return due or nil
  end
  if key then count_removed('ZREM', OWN .. ':called:' .. key, job) end
  return (key and stop_waiting(queue, key, job) == 1 or strike(queue, job, first_place, #ARGV - FIRST_ID)) or nil
end

local function keep_lock(job, due, lock, unique_s)
  local ttl_s = tonumber(unique_s or 0) or 0
  if lock and ttl_s > 0 and holder_of(lock) == job then
    call('PEXPIRE', lock, math.ceil((math.max(due - seconds, 0) + ttl_s) * 1000))
  end
end

local function place(job)
  local job_key = RQ .. ':job:' .. job
  if call('TYPE', job_key).ok ~= 'hash' then return 'unknown' end
  local fields = call('HMGET', job_key, 'status', 'origin', 'concurrency_key', 'unique_key', 'unique_s')
  local status, queue, key = fields[1] or 'broken', fields[2] or '', fields[3]
  if not ALLOWED_STATUSES[status] then return STATE_OF[status] or status end
  local target = what == 'move' and value or queue
  local is_later = what == 'reschedule' or status == 'scheduled'
  -- The place where the task is to go: a foreign key there is an error before the task is taken.
  call(is_later and 'ZCARD' or 'LLEN', RQ .. (is_later and ':scheduled:' or ':queue:') .. target)
  local due = take(job, status, queue, key)
  if not due then return STATE_OF[status] or status end
  call('HSET', job_key, 'origin', target)
  if what == 'reschedule' then
    due = math.max(tonumber(value), seconds)
    keep_lock(job, due, fields[4], fields[5])
  end
  if is_later then
    schedule(target, job, tonumber(due), seconds)
  else
    call('HSET', job_key, 'enqueued_at', iso(seconds))
    push(target, job, false)
  end
  if key and status == 'queued' then call_waiting(key, seconds) end
  return is_blank and 'blank' or 'done'
end

local answers = {}
for i = FIRST_ID, #ARGV do
  is_blank = false
  answers[#answers + 1] = place(ARGV[i])
end
answers[#answers + 1] = note_answer(BY, what, answers[1]) or ''
return answers
