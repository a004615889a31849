-- Do what a person asks with tasks: run them now, set them aside, or delete them.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 'run', 'archive' or 'delete', 4 seconds that the archive keeps a task,
--   5 how many tasks it keeps, then job IDs.
-- Returns for each job 'done', 'unknown', or the state in which that cannot be done: 'pending', 'active',
--   'completed', 'archived', or RQ's word for one of its own.
-- Touches: rq:queue:Q (LREM, RPUSH), rq:scheduled:Q, rq:failed:Q, rq:finished:Q (ZREM), boilerd:archived:Q (ZADD,
--   ZREM), boilerd:waiting:KEY, boilerd:called:KEY (ZREM), rq:job:ID (status; PERSIST, EXPIRE, DEL), rq:results:ID
--   (PERSIST, EXPIRE, DEL), rq:job:ID:dependents (PERSIST, DEL, and as in fail.lua), rq:queues, boilerd:queues,
--   boilerd:bell:Q, boilerd:unique:….
--   A task that is run again keeps its count of retries: when they are used up, it gets one attempt.

local action, ttl, limit = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local seconds = now()
local states = {queued = 'pending', started = 'active', finished = 'completed', failed = 'archived'}
local allowed = {
  run = {scheduled = true, failed = true},
  archive = {queued = true, scheduled = true},
  delete = {queued = true, scheduled = true, failed = true, finished = true},
}
local registries = {scheduled = 'scheduled', failed = 'failed', finished = 'finished'}

-- Take the task out of the place where its status says it is; false where it is not there.
local function take(job, status, queue, key)
  if status ~= 'queued' then return count_removed('ZREM', RQ .. ':' .. registries[status] .. ':' .. queue, job) == 1 end
  if key then count_removed('ZREM', OWN .. ':called:' .. key, job) end
  return count_removed('LREM', RQ .. ':queue:' .. queue, 1, job) == 1
    or key and count_removed('ZREM', OWN .. ':waiting:' .. key, job) == 1
end

local function act(job)
  local record_key = RQ .. ':job:' .. job
  if call('TYPE', record_key).ok ~= 'hash' then return 'unknown' end
  local fields = call('HMGET', record_key, 'status', 'origin', 'concurrency_key', 'last_error')
  local status, queue, key = fields[1] or 'broken', fields[2] or '', fields[3]
  if not allowed[action][status] then return states[status] or status end
  -- Where it is to go: a stranger's key there is an error before the task is taken.
  if action == 'archive' then call('ZCARD', RQ .. ':failed:' .. queue) end
  if action == 'run' then call('LLEN', RQ .. ':queue:' .. queue) end
  if not take(job, status, queue, key) then return states[status] or status end
  if status == 'failed' then unarchive(queue, job) end
  if action == 'delete' then
    delete(job)
  elseif action == 'run' then
    call('PERSIST', record_key)
    call('PERSIST', RQ .. ':results:' .. job)
    call('PERSIST', record_key .. ':dependents')
    call('HDEL', record_key, 'ended_at')
    call('HSET', record_key, 'enqueued_at', iso(seconds))
    push(queue, job, false)
  else
    if not fields[4] then call('HSET', record_key, 'last_error', 'archived by hand', 'last_failed_at', iso(seconds)) end
    archive(queue, job, seconds, ttl, limit)
  end
  if key and status == 'queued' then call_waiting(key, seconds) end
  return 'done'
end

local answers = {}
for i = 6, #ARGV do answers[#answers + 1] = act(ARGV[i]) end
return answers
