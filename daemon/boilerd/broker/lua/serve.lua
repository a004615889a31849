-- Acknowledge completions and claim tasks, as advance.lua does, for a worker with several slots.
--
-- What it claims begins at once, so that tasks with a concurrency key, and those of a queue with max_active, are claimed
-- several at a time, as many as there is room for. Some may be claimed ahead, which begin when others have ended: none of
-- those, and no suspect, for others could begin them; and none behind such a task, or it would never come to its turn. The worker holds other claims as a rule: so a call says of which life
-- of the worker it is, and which of its calls. One that Redis runs late, when the worker has given it up or is dead,
-- claims nothing.
--
-- KEYS: none.
-- ARGV: 1 to 7 and the queues' names as in advance.lua, but that 6 is of this call alone, the same when it is sent
--   again; then five values: the worker's life, the number of the call (above those before), how many suspects may
--   begin, whether none runs: 1 or 0, how many tasks begin at once; then completions as in advance.lua.
-- Returns what advance.lua does. A job ID without a job is among the claimed, without fields; it is gone from the queue.
--   Why nothing may also be IS_STALE: the worker's record names another life, or a call as late as this. Completions
--   are written all the same; their leases decide.
-- Execution IDs end in '-' and the place among those of one call, from 0.
-- Suspects are tasks whose worker died, with others beside them; `alone` says how often. Those that may not begin go
--   back to the head of their queue, and those behind them are looked at.
-- Touches what advance.lua does, and rq:worker:W (turn).

local first_of_serve = first_queue + queues
local life, turn, room, is_first =
  ARGV[first_of_serve], ARGV[first_of_serve + 1], tonumber(ARGV[first_of_serve + 2]), ARGV[first_of_serve + 3] == '1'
begin_at_once = tonumber(ARGV[first_of_serve + 4])
acknowledge(first_of_serve + 5)

-- Whether the call is too late to claim; if not, it is noted, so that none before it may claim from now on.
local function is_stale()
  local known = call('HMGET', worker_key, 'life', 'turn')
  if known[1] ~= life or tonumber(turn) <= (tonumber(known[2]) or 0) then return true end
  call('HSET', worker_key, 'turn', turn)
end

-- Whether a suspect may begin beside those that run. One whose worker died more than once runs beside no other suspect:
-- if that worker dies too, it is to blame.
local function may_begin(job)
  local deaths = job.fields[ALONE]
  if not deaths then return true end
  local is_alone = (tonumber(deaths) or 1) > 1
  if room < 1 or is_alone and not is_first then return false end
  room, is_first = is_alone and 0 or room - 1, false
  return true
end

-- Tasks of the queue, in its order; looks at a bounded number of them.
local function take(queue, most)
  local key, jobs, missing, suspects, is_seen, looked = RQ .. ':queue:' .. queue, {}, {}, {}, {}, 0
  local is_over = false

  local function look_at(id)
    local job = read(id)
    if #job.fields == 0 then
      missing[#missing + 1] = id
    elseif not is_elsewhere(job) then
      is_over = is_over or job.is_alone and #jobs >= begin_at_once
      if is_over or not may_begin(job) then
        suspects[#suspects + 1] = id
      elseif not job.key or enter_key(queue, job) then
        jobs[#jobs + 1] = job
      end
    end
  end

  while #jobs + #missing < most and looked < MOST_LOOKS and not is_over do
    local ids = call('LPOP', key, math.min(most - #jobs - #missing, MOST_LOOKS - looked))
    if not ids then break end
    looked = looked + #ids
    for _, id in ipairs(ids) do
      if id ~= '' and not is_seen[id] then look_at(id) end
      is_seen[id] = true
    end
  end
  for i = #suspects, 1, -1 do call('LPUSH', key, suspects[i]) end
  if #jobs + #missing == 0 then
    if is_over then return {} end
    if looked < MOST_LOOKS and #suspects == 0 then note_empty(queue) end
    -- Suspects alone would be found again.
    is_cut = is_cut or looked >= MOST_LOOKS and #suspects < looked
    return nil
  end
  local claimed = #jobs > 0 and claim(queue, jobs, true) or {}
  for _, id in ipairs(missing) do
    claimed[#claimed + 1] = {id, string.format('%s-%d', execution, #claimed), queue, stamped, {}}
  end
  return claimed
end

if is_registered == 0 then return {lost, {}, 0, 0} end
if queues == 0 then
  if limit > 0 then set_state('suspended') end
  return {lost, {}, 1, 0}
end
if is_stale() then return {lost, {}, 1, IS_STALE} end
is_restricted = call('EXISTS', RQ .. ':suspended', OWN .. ':paused', OWN .. ':limits') > 0
local claimed = not (is_restricted and call('EXISTS', RQ .. ':suspended') == 1) and take_from_first(take)
set_state(call('EXISTS', claims_key) == 1 and 'busy' or 'idle')
return {lost, claimed or {}, 1, not claimed and is_cut and LOOK_AGAIN or 0}
