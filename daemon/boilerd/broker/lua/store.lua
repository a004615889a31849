-- Store one task; what enqueue.lua and tick.lua share. scripts.py puts it behind common.lua.

local seconds = now()
local time = iso(seconds)
local answers, room = {}, {}

-- How many more tasks the queue takes.
local function room_in(queue)
  if room[queue] == nil then
    local limit = tonumber(redis.pcall('HGET', OWN .. ':limits', queue .. ':max_length')) or 0
    room[queue] = limit > 0 and limit - call('LLEN', RQ .. ':queue:' .. queue) or 1e9
  end
  return room[queue]
end

-- The task that has the lock. One that RQ's tools deleted or cancelled gave it back to nobody: then it is free, but
-- for a lock that is to last until its TTL, whatever becomes of its task.
local function holder_of(lock)
  local value = own_call('GET', lock)
  local lasting = value and value:match('^ttl:(.*)$')
  if not value or lasting then return lasting end
  local fields = fields_of(RQ .. ':job:' .. value, 'unique_key', 'status')
  return fields[1] == lock and fields[2] ~= 'canceled' and value
end

-- Store the task whose description begins at ARGV[i]: job ID, queue name, due in seconds (0: now), due at
-- (epoch; '' for none), unique lock ('' for none), its TTL in seconds, whether it lasts until then in any case (1 or
-- 0), n, and n field names and values of the job hash in turn. Answers as enqueue.lua says, and where the next
-- description begins.
-- The queue comes first of what is written: where a stranger's key stands in its place, nothing is.
local function store(i)
  local id, queue, after, at, lock, ttl, is_lasting, n = unpack(ARGV, i, i + 7)
  local first, last = i + 8, i + 7 + tonumber(n)
  local due = at ~= '' and tonumber(at) or seconds + tonumber(after)
  local key = RQ .. ':job:' .. id
  -- As a rule there is neither, and one command tells.
  local found = call('EXISTS', key, OWN .. ':limits')
  if found > 0 and call('EXISTS', key) == 1 then return 0, last + 1 end
  if found > 0 and due <= seconds and room_in(queue) <= 0 then return -1, last + 1 end
  if lock ~= '' then
    local holder = holder_of(lock)
    if holder then return holder, last + 1 end
  end
  local is_later = due > seconds
  if is_later then
    schedule(queue, id, due, seconds)
  else
    -- Where others wait already, whoever stored or claims them noted the queue.
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
  return is_later and 2 or 1, last + 1
end
