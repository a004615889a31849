-- Store one task; enqueue.lua and tick.lua share this file, which scripts.py puts behind common.lua.

local seconds = now()
local time = iso(seconds)
local room = {}
-- Type and queue of the task that was stored last, and how many of this pair in a row are not counted yet.
local last_pair, uncounted = '', 0

-- How many more tasks the queue takes. Those that wait for a share of their concurrency key wait as well.
local function room_in(queue)
  if room[queue] == nil then
    local limit = tonumber(redis.pcall('HGET', OWN .. ':limits', queue .. ':max_length')) or 0
    room[queue] = 1e9
    if limit > 0 then
      room[queue] = limit - call('LLEN', RQ .. ':queue:' .. queue) - own_call('ZCARD', OWN .. ':aside:' .. queue)
    end
  end
  return room[queue]
end

-- Remember an ID beyond its record; false if it is remembered already. All that could keep the task out after this is
-- tried before: an ID that is remembered without a task would never be accepted.
local function remember(id, once, queue, is_later)
  call(is_later and 'ZCARD' or 'LLEN', RQ .. (is_later and ':scheduled:' or ':queue:') .. queue)
  return call('SET', OWN .. ':once:' .. id, '1', 'NX', 'PX', once)
end

-- Count what was stored for the metrics, by type and queue: no type has a blank. The scheduler takes it over every few
-- seconds. Nothing here may fail: the tasks are stored.
local function count_stored()
  if uncounted == 0 then return end
  local key, count = OWN .. ':metrics:enqueued', uncounted
  local known = redis.pcall('HINCRBY', key, last_pair, count)
  uncounted = 0
  if known == count then -- it is new there
    call('EXPIRE', key, ENQUEUED_TTL_S)
    if call('HLEN', key) > MOST_PAIRS then
      call('HDEL', key, last_pair)
      call('HINCRBY', key, OTHER .. ' ' .. OTHER, count)
    end
  elseif type(known) == 'table' and known.err:find('WRONGTYPE', 1, true) then
    redis.pcall('DEL', key)
  end
end

-- Count an enqueue that a limit has refused, by the hour. Nothing here may fail: the refusal is the answer.
local function refuse(why, queue)
  local key, field = OWN .. ':refused:' .. math.floor(seconds / 3600), why .. ' ' .. queue
  if redis.pcall('HINCRBY', key, field, 1) ~= 1 then return end -- it was there, or may not be written
  redis.pcall('EXPIRE', key, REFUSED_TTL_S)
  if redis.pcall('HLEN', key) > MOST_PAIRS then redis.pcall('HDEL', key, field) end
end

local function note_stored(pair)
  if pair ~= last_pair then
    count_stored()
    last_pair = pair
  end
  uncounted = uncounted + 1
end

-- Store the task whose description begins at ARGV[i]: job ID, queue, due in seconds (0: now), due at (epoch; '' for
-- none), unique lock ('' for none), the lock's TTL in seconds, whether the lock lasts until then in any case (1 or 0),
-- for how many milliseconds the ID is remembered ('' for no longer than its record), n, and n field names and values of the job hash in turn, the third of which is its task_type. Returns the answer (see enqueue.lua), and where the next
-- description begins.
-- The queue is written first: where a foreign key stands in its place, nothing is written.
local function store(i)
  local id, queue, after, at, lock, ttl, is_lasting, once, n = unpack(ARGV, i, i + 8)
  local first, last = i + 9, i + 8 + tonumber(n)
  local due = at ~= '' and tonumber(at) or seconds + tonumber(after)
  local key = RQ .. ':job:' .. id
  -- As a rule neither is there, and one command shows it.
  local found = call('EXISTS', key, OWN .. ':limits')
  if found > 0 and call('EXISTS', key) == 1 then return ID_TAKEN, last + 1 end
  if found > 0 and due <= seconds and room_in(queue) <= 0 then
    refuse('full', queue)
    return QUEUE_FULL, last + 1
  end
  if lock ~= '' then
    local holder = holder_of(lock)
    if holder then
      refuse('unique', queue)
      return holder, last + 1
    end
  end
  local is_later = due > seconds
  if once ~= '' and not remember(id, once, queue, is_later) then return ID_REMEMBERED, last + 1 end
  if is_later then
    schedule(queue, id, due, seconds)
  else
    -- If others wait already, the queue was noted when they were stored or claimed.
    local waiting = call('RPUSH', RQ .. ':queue:' .. queue, id)
    if waiting == 1 then note_queue(queue) end
    if room[queue] then room[queue] = room[queue] - 1 end
    ring(queue, waiting)
  end
  if lock ~= '' then
    local value = is_lasting == '1' and 'ttl:' .. id or id
    call('SET', lock, value, 'PX', math.ceil((math.max(due - seconds, 0) + tonumber(ttl)) * 1000))
  end
  call('HSET', key, 'status', is_later and 'scheduled' or 'queued', 'created_at', time, 'enqueued_at', time,
    unpack(ARGV, first, last))
  note_stored(ARGV[first + 5] .. ' ' .. queue)
  return is_later and STORED_SCHEDULED or STORED_PENDING, last + 1
end
