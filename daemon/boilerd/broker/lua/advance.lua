-- Acknowledge completions, and claim the next tasks: one round trip for all of them.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 how many tasks to claim at most (0: the worker goes on with the
--   task that it runs), 5 into how many parts a queue is shared, 6 a new execution ID, 7 number of queues (0: claim
--   nothing), from 8 on their names in the order to try; then for each completion COMPLETION_LENGTH values:
--   job ID, execution ID, queue, retention in seconds (-1: for ever), started (epoch), result (base64 of JSON, '' for
--   none), task type, whether the end of the task has to look at a unique lock, a concurrency key or repeats: 1 or 0.
-- Returns {lost, claimed, is registered, why nothing}:
--   lost: job IDs whose lease was gone, so that nothing was written;
--   claimed: for each task {job ID, execution ID, queue, started (epoch), its CLAIMED_FIELDS in that order}, all of one
--     queue; behind the fields its concurrency_limit, if no task could ever run under it. No fields: the queue held an ID without a job, which is gone from the queue by now;
--   is registered: 1, or 0 if RQ's record of the worker is gone;
--   why nothing: HOLDS_MORE: the worker holds a claim beside those it acknowledged, so that nothing was claimed;
--     LOOK_AGAIN: so many tasks stepped aside that not all were looked at, and the worker is to call again; else 0.
-- Several tasks, a batch, are claimed at once from long queues only: one more than a part of those that wait, so that
--   all workers share a short queue. Execution IDs of a batch end in '-' and the place in it, from 0. Never in a
--   batch: tasks with a concurrency key, of a queue with max_active, or marked `alone`.
-- Touches, acknowledging, if the task is to be repeated: rq:job:ID, rq:results:ID, rq:scheduled:Q or rq:queue:Q;
--   in any case rq:wip:Q, rq:execution:ID:EID, rq:executions:ID, rq:worker:W:executions,
--   rq:worker:W, boilerd:stats:Q:DAY, boilerd:completed:Q (the last 1,000 or some more, as JSON), and with no
--   retention rq:job:ID and rq:results:ID (DEL), else rq:job:ID (status finished, EXPIRE),
--   rq:results:ID (XADD, EXPIRE), rq:finished:Q (ZADD, score = when it expires). Of jobs of plain RQ that depend on
--   it: rq:job:ID:dependents, rq:job::ID:dependencies, rq:deferred:Q, rq:job:ID (status, enqueued_at), rq:queue:Q.
-- Touches, claiming: rq:suspended, boilerd:paused, boilerd:limits, boilerd:running:KEY (ZADD, score = end
--   of the lease; a day), boilerd:called:KEY (ZREM), boilerd:waiting:KEY, boilerd:aside:Q (ZADD, score = when it
--   stepped aside; its place among those that do so in one call), boilerd:keys (SADD), rq:queue:Q (LPOP, LPUSH),
--   boilerd:bell:Q, rq:job:ID (status started, PERSIST), rq:execution:ID:EID, rq:wip:Q (ZADD, score = end of the
--   lease and LEASE_OFFSET_S),
--   rq:worker:W:executions (EXPIRE: a day), rq:worker:W (state). rq:executions:ID is written by the first heartbeat.

local first_completion = first_queue + queues
local has_completions = #ARGV >= first_completion

if has_completions then acknowledge(first_completion) end

-- One task, the first of the queue that may run; looks at a bounded number of them.
local function take_one(queue)
  for _ = 1, MOST_LOOKS do
    local id = call('LPOP', RQ .. ':queue:' .. queue)
    if not id then return note_empty(queue) end
    local job = id ~= '' and read(id)
    if job and #job.fields == 0 then return {{id, execution, queue, stamped, {}}} end
    if job and not is_elsewhere(job) and (not job.key or enter_key(queue, job)) then return claim(queue, {job}, false) end
  end
  is_cut = true
end

-- Several tasks, each once, up to the first that is to be claimed alone; the rest goes back to the queue's head.
local function take(queue, most)
  if most == 1 then return take_one(queue) end
  local key, jobs, is_taken = RQ .. ':queue:' .. queue, {}, {}
  local ids = call('LPOP', key, most)
  for i, id in ipairs(ids) do
    local job = read(id)
    if job.is_alone or #job.fields == 0 then
      for back = #ids, i, -1 do call('LPUSH', key, ids[back]) end
      break
    end
    if not is_taken[id] and not is_elsewhere(job) then jobs[#jobs + 1] = job end
    is_taken[id] = true
  end
  if #jobs == 0 then return take_one(queue) end
  return claim(queue, jobs, true)
end

if queues > 0 then
  -- As a rule none of these is there, and one command shows it.
  is_restricted = call('EXISTS', claims_key, RQ .. ':suspended', OWN .. ':paused', OWN .. ':limits') > 0
  -- A claim whose answer never arrived: the worker must settle it before it gets another.
  if is_restricted and call('EXISTS', claims_key) == 1 then return {lost, {}, is_registered, HOLDS_MORE} end
end

if queues > 0 and not (is_restricted and call('EXISTS', RQ .. ':suspended') == 1) then
  local claimed = take_from_first(take)
  if claimed then
    -- A worker that has just completed something is busy already.
    if not has_completions then set_state('busy') end
    return {lost, claimed, is_registered, 0}
  end
end
if limit > 0 then set_state(queues > 0 and 'idle' or 'suspended') end
return {lost, {}, is_registered, is_cut and LOOK_AGAIN or 0}
