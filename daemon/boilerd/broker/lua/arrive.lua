-- Store tasks that waited at another broker, as they were there.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, then for each task: job ID, queue, place ('queue', 'scheduled' or 'failed'), its
--   score there ('' in a queue), the TTL of the job in ms (-1: none), its unique lock ('' for none), the lock's value and
--   TTL in ms; for how many ms its ID is remembered yet (0: not); n, and n field names and values of the job hash in turn; m, and m parts of its results: of each the
--   entry's ID, how many names and values it has, and these.
-- Returns for each task 'stored'; 'there': it was moved before; 'taken': another one has its ID; or 'locked': another
--   one holds its unique lock.
-- Touches for each task: rq:job:ID, rq:results:ID, rq:queue:Q (RPUSH) and boilerd:bell:Q, or rq:scheduled:Q (ZADD) and
--   boilerd:alarm, or rq:failed:Q and boilerd:archived:Q (ZADD); rq:queues, boilerd:queues (SADD), boilerd:unique:… (SET),
--   boilerd:once:ID (PTTL, SET).

local seconds = now()
local i = 3

local function take(count)
  i = i + count
  return unpack(ARGV, i - count, i - 1)
end

-- The parts of the task that are of a number of their own.
local function take_list()
  local count = tonumber(take(1))
  local first = i
  i = i + count
  return first, i - 1
end

local function place_in(place, queue, id, score, is_ours)
  if place == 'queue' then
    local waiting = call('RPUSH', RQ .. ':queue:' .. queue, id)
    note_queue(queue)
    ring(queue, waiting)
  elseif place == 'scheduled' then
    schedule(queue, id, tonumber(score), seconds)
  else
    call('ZADD', RQ .. ':failed:' .. queue, score, id)
    note_queue(queue)
    if is_ours then
      own_call('ZADD', OWN .. ':archived:' .. queue, score, id)
      call('EXPIRE', OWN .. ':archived:' .. queue, ARCHIVE_TTL_S)
    end
  end
end

local function store_results(key, first, last, ttl)
  local part = first
  while part <= last do
    local count = tonumber(ARGV[part + 1])
    redis.pcall('XADD', key, ARGV[part], unpack(ARGV, part + 2, part + 1 + count))
    part = part + 2 + count
  end
  if tonumber(ttl) > 0 then call('PEXPIRE', key, ttl) end
end

local function arrive()
  local id, queue, place, score, ttl, lock, value, lock_ttl, once = take(9)
  local first, last = take_list()
  local first_result, last_result = take_list()
  local key, created, is_ours = RQ .. ':job:' .. id, false, false
  for field = first, last, 2 do
    if ARGV[field] == 'created_at' then created = ARGV[field + 1] end
    if ARGV[field] == 'task_type' then is_ours = true end
  end
  if call('EXISTS', key) == 1 then return fields_of(key, 'created_at')[1] == created and 'there' or 'taken' end
  if lock ~= '' and holder_of(lock) then return 'locked' end
  place_in(place, queue, id, score, is_ours) -- first: where it fails, nothing is written
  call('HSET', key, unpack(ARGV, first, last))
  if tonumber(ttl) > 0 then call('PEXPIRE', key, ttl) end
  if lock ~= '' then call('SET', lock, value, 'PX', lock_ttl) end
  local memory = OWN .. ':once:' .. id
  -- That of an earlier task of this ID here may last longer.
  if tonumber(once) > 0 and tonumber(once) > call('PTTL', memory) then call('SET', memory, '1', 'PX', once) end
  store_results(RQ .. ':results:' .. id, first_result, last_result, ttl)
  return 'stored'
end

local answers = {}
while i <= #ARGV do answers[#answers + 1] = arrive() end
return answers
