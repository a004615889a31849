-- Count the tasks of queues by state, and read on request what they take, how long the first has waited, and what stands
-- at the ends of their lists.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how much is told of each ('counts', 'whole' or 'ends'), 4 of how many tasks of
--   each state the memory is measured, then names of queues.
-- Returns {now, rows}: a row for each name. A row is {misplaced, is paused (1 or 0), pending, active, scheduled,
--   finished, failed}, for 'whole' and 'ends' behind these {max_active, max_length, processed, failed and dropped today,
--   bytes, when the first pending task was enqueued, when the first of those that wait for a concurrency key was}, which
--   are pending as well; and for 'ends' behind these {how many wait for a key, ID of the first of them, since when it
--   waits, when the first scheduled task is due, how many came into the archive lately}, '' where there is none. 'ends'
--   without memory is for who looks often: what was done today, what is due and what came into the archive are '' then.
--   misplaced: {key, kind that it should be} in turn, for each key of another kind; what it holds counts as nothing.
-- Reads for each queue: rq:queue:Q, boilerd:aside:Q, rq:wip:Q, rq:scheduled:Q, rq:finished:Q, rq:failed:Q, boilerd:paused; and on request
--   boilerd:limits, boilerd:stats:Q:DAY, and of a few tasks rq:job:ID. Writes nothing.

local is_whole, has_ends, samples = ARGV[3] ~= 'counts', ARGV[3] == 'ends', tonumber(ARGV[4])
local is_often = has_ends and samples == 0
local seconds = now()
local trying = redis.pcall
local TODAY = ':' .. math.floor(seconds / 86400)
local misplaced

-- What the command reads; `nothing` where the key is of another kind, which is noted.
local function read(kind, nothing, command, key, ...)
  local answer = trying(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  -- Any other error, such as one of permissions, says nothing about the key, and is raised again.
  if not answer.err:find('WRONGTYPE', 1, true) then return call(command, key, ...) end
  misplaced[#misplaced + 1] = key
  misplaced[#misplaced + 1] = kind
  return nothing
end

local function size_of(key)
  return read('sorted set', 0, 'ZCARD', key)
end

-- About how many bytes so many tasks take, by the first ones.
local function bytes_of(command, key, length)
  if length == 0 or samples == 0 then return 0 end
  local ids, total = call(command, key, 0, samples - 1), 0
  for _, id in ipairs(ids) do
    local size = redis.pcall('MEMORY', 'USAGE', RQ .. ':job:' .. id, 'SAMPLES', 0) -- all fields: one of them is large
    total = total + (tonumber(size) or 0)
  end
  return math.floor(total / #ids * length)
end

local function enqueued_at(first)
  return first and fields_of(RQ .. ':job:' .. first, 'enqueued_at')[1] or ''
end

-- What was archived stands under the moment at which it expires.
local function count_lately(key, length)
  if length == 0 then return 0 end
  local expires = math.floor(seconds) + ARCHIVE_TTL_S
  return call('ZCOUNT', key, '(' .. expires - LATELY_S, expires + 1)
end

local function first_of(key, length)
  if length == 0 then return {} end
  return call('ZRANGE', key, 0, 0, 'WITHSCORES')
end

-- What stands in one key for all queues: in turn for each whether it is paused, and its limits, two for each.
misplaced = {}
local paused, limits = read('set', {}, 'SMISMEMBER', OWN .. ':paused', unpack(ARGV, 5)), {}
if is_whole then
  local fields = {}
  for i = 5, #ARGV do
    fields[#fields + 1] = ARGV[i] .. ':max_active'
    fields[#fields + 1] = ARGV[i] .. ':max_length'
  end
  limits = read('hash', {}, 'HMGET', OWN .. ':limits', unpack(fields))
end
local misplaced_of_all = misplaced

local QUEUE, ASIDE, STATS = RQ .. ':queue:', OWN .. ':aside:', OWN .. ':stats:'
local WIP, SCHEDULED, FINISHED, FAILED = RQ .. ':wip:', RQ .. ':scheduled:', RQ .. ':finished:', RQ .. ':failed:'

local function look(queue, place)
  misplaced = {unpack(misplaced_of_all)}
  local queue_key, aside_key, scheduled_key = QUEUE .. queue, ASIDE .. queue, SCHEDULED .. queue
  local finished_key, failed_key = FINISHED .. queue, FAILED .. queue
  local queued, aside = read('list', 0, 'LLEN', queue_key), size_of(aside_key)
  local active, scheduled, finished, failed = size_of(WIP .. queue), size_of(scheduled_key), size_of(finished_key),
    size_of(failed_key)
  local row = {misplaced, paused[place] or 0, queued + aside, active, scheduled, finished, failed}
  if not is_whole then return row end
  local waiting = first_of(aside_key, aside)
  local ended = is_often and {}
    or read('hash', {}, 'HMGET', STATS .. queue .. TODAY, 'processed', 'failed', 'dropped')
  row[8], row[9] = limits[2 * place - 1] or '', limits[2 * place] or ''
  row[10], row[11], row[12] = ended[1] or '', ended[2] or '', ended[3] or ''
  row[13] = bytes_of('LRANGE', queue_key, queued) + bytes_of('ZRANGE', aside_key, aside)
    + bytes_of('ZRANGE', scheduled_key, scheduled) + bytes_of('ZRANGE', finished_key, finished)
    + bytes_of('ZRANGE', failed_key, failed)
  row[14] = enqueued_at(queued > 0 and call('LRANGE', queue_key, 0, 0)[1])
  row[15] = enqueued_at(waiting[1])
  if not has_ends then return row end
  row[16], row[17], row[18] = aside, waiting[1] or '', waiting[2] or ''
  row[19] = not is_often and first_of(scheduled_key, scheduled)[2] or ''
  row[20] = is_often and '' or count_lately(failed_key, failed)
  return row
end

local rows = {}
for i = 5, #ARGV do
  rows[#rows + 1] = look(ARGV[i], i - 4)
end
return {stamp(seconds), rows}
