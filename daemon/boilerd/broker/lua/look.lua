-- Count the tasks of queues by state, and read on request what they take and how long the first has waited.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 of how many tasks of each state the memory is measured ('0': only count), then
--   names of queues.
-- Returns {now, rows}: a row for each name, up to the one with which MOST_READS were reached; the caller asks for the
--   others again. A row is {misplaced, is paused (1 or 0), pending, active, scheduled, finished, failed}, and on request
--   behind these {max_active, max_length, processed and failed today, when the first pending task was enqueued, bytes}.
--   misplaced: {key, kind that it should be} in turn, for each key of another kind; what it holds counts as nothing.
-- Reads for each queue: rq:queue:Q, rq:wip:Q, rq:scheduled:Q, rq:finished:Q, rq:failed:Q, boilerd:paused; and on request
--   boilerd:limits, boilerd:stats:Q:DAY, and of a few tasks rq:job:ID. Writes nothing.

local samples = tonumber(ARGV[3])
local seconds = now()
local today = math.floor(seconds / 86400)
local reads, misplaced = 0, {}

-- What the command reads; `nothing` where the key is of another kind, which is noted.
local function read(kind, nothing, command, key, ...)
  reads = reads + 1
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  -- Any other error, such as one of permissions, says nothing about the key, and is raised again.
  if not answer.err:find('WRONGTYPE', 1, true) then return call(command, key, ...) end
  misplaced[#misplaced + 1] = key
  misplaced[#misplaced + 1] = kind
  return nothing
end

-- About how many bytes so many tasks take, by the first ones.
local function bytes_of(command, key, length)
  if length == 0 then return 0 end
  local ids, total = call(command, key, 0, samples - 1), 0
  for _, id in ipairs(ids) do
    reads = reads + 1
    local size = redis.pcall('MEMORY', 'USAGE', RQ .. ':job:' .. id, 'SAMPLES', 0) -- all fields: one of them is large
    total = total + (tonumber(size) or 0)
  end
  return math.floor(total / #ids * length)
end

local function enqueued_at(first)
  return first and fields_of(RQ .. ':job:' .. first, 'enqueued_at')[1] or ''
end

local function look(queue)
  misplaced = {}
  local pending_key = RQ .. ':queue:' .. queue
  local row = {misplaced, read('set', 0, 'SISMEMBER', OWN .. ':paused', queue), read('list', 0, 'LLEN', pending_key)}
  local bytes = 0
  for _, registry in ipairs({'wip', 'scheduled', 'finished', 'failed'}) do
    local key = RQ .. ':' .. registry .. ':' .. queue
    local length = read('sorted set', 0, 'ZCARD', key)
    row[#row + 1] = length
    if samples > 0 and registry ~= 'wip' then bytes = bytes + bytes_of('ZRANGE', key, length) end
  end
  if samples > 0 then
    local limits = read('hash', {}, 'HMGET', OWN .. ':limits', queue .. ':max_active', queue .. ':max_length')
    local ended = read('hash', {}, 'HMGET', OWN .. ':stats:' .. queue .. ':' .. today, 'processed', 'failed')
    local waits = row[3] > 0 and call('LRANGE', pending_key, 0, 0)[1]
    for _, value in ipairs({limits[1] or '', limits[2] or '', ended[1] or '', ended[2] or '', enqueued_at(waits)}) do
      row[#row + 1] = value
    end
    row[#row + 1] = bytes + bytes_of('LRANGE', pending_key, row[3])
  end
  return row
end

local rows = {}
for i = 4, #ARGV do
  rows[#rows + 1] = look(ARGV[i])
  if reads >= MOST_READS then break end
end
return {stamp(seconds), rows}
