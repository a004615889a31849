-- Functions that all scripts use; scripts.py puts this file in front of each of them.
--
-- Every script gets in ARGV[1] RQ's key prefix and in ARGV[2] boilerd's own. Constants in capitals that no file here
-- defines come from constants.py. Times are Redis's: no host's clock decides anything. Keys of jobs are made inside
-- the scripts, because their IDs are only known there: on a cluster the prefix must hold a hash tag.

local RQ, OWN = ARGV[1], ARGV[2]
local call = redis.call

local function now()
  local t = call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1e6
end

-- Seconds since 1970 as text with microseconds; Lua's own conversion keeps 14 digits only.
local function stamp(seconds)
  return string.format('%.6f', seconds)
end

-- RQ's time format, '%Y-%m-%dT%H:%M:%S.%fZ'.
-- Source of the calendar arithmetic: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
local function iso(seconds)
  local days = math.floor(seconds / 86400)
  local rest = seconds - days * 86400
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local whole_seconds = math.floor(rest)
  local micros = math.min(999999, math.floor((rest - whole_seconds) * 1e6 + 0.5))
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, day,
    math.floor(whole_seconds / 3600), math.floor(whole_seconds / 60) % 60, whole_seconds % 60, micros)
end

-- Call a command on a key that is ours to write. A foreign value that the command cannot work with is deleted: a
-- script that fails half-way would leave a task nowhere, or be tried again for ever.
local function own_call(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  local message = type(answer) == 'table' and answer.err
  if not message then return answer end
  -- Any other error, such as one of permissions, says nothing about the key, and is raised again.
  if message:find('WRONGTYPE', 1, true) or message:find('not an integer', 1, true) then call('DEL', key) end
  return call(command, key, ...)
end

-- Some fields of a hash; none of a key of another kind.
local function fields_of(key, ...)
  local fields = redis.pcall('HMGET', key, ...)
  return fields.err and {} or fields
end

-- Wake one idle worker of a queue in which so many tasks wait now. Where more wait than a bell has elements, no
-- worker is idle, or one was woken for each of the tasks before.
local function ring(queue, waiting)
  if waiting > BELL_LENGTH then return end
  local key = OWN .. ':bell:' .. queue
  local length = own_call('RPUSH', key, '1')
  if length == 1 then
    call('EXPIRE', key, BELL_TTL_S)
  elseif length > BELL_LENGTH then
    call('RPOP', key)
  end
end

-- Remember that tasks of ours are in the queue: boilerd's schedulers look at the queues in boilerd:queues, RQ's tools
-- and the inspector at those in rq:queues, which forgets a queue when it is deleted.
local noted = {}
local function note_queue(queue)
  if noted[queue] then return end
  noted[queue] = true
  own_call('SADD', OWN .. ':queues', queue)
  redis.pcall('SADD', RQ .. ':queues', RQ .. ':queue:' .. queue)
end

-- The score of a task that is due at a moment. Members with one score are sorted by their IDs, so a task that finds the
-- moment taken comes a microsecond behind the last of those there: they run in the order in which they were stored. A
-- millisecond has room for a thousand; where it is full, the time that is looked at doubles.
local function score_at(scheduled, due)
  local moment, span = stamp(due), 0.001
  if call('ZCOUNT', scheduled, moment, moment) == 0 then return moment end
  while true do
    local last = tonumber(call('ZREVRANGEBYSCORE', scheduled, stamp(due + span), moment, 'WITHSCORES', 'LIMIT', 0, 1)[2])
    if last + 1e-6 < due + span then return stamp(last + 1e-6) end
    span = 2 * span
  end
end

-- Have a task run at a time; if that is before the scheduler looks by itself, wake it.
local function schedule(queue, job, due, seconds)
  local scheduled = RQ .. ':scheduled:' .. queue
  call('ZADD', scheduled, score_at(scheduled, due), job) -- first: where it fails, nothing is written
  call('HSET', RQ .. ':job:' .. job, 'status', 'scheduled')
  note_queue(queue)
  local alarm = OWN .. ':alarm'
  if due - seconds < FORWARD_EVERY_S and own_call('LLEN', alarm) == 0 then
    call('RPUSH', alarm, '1')
    call('EXPIRE', alarm, BELL_TTL_S)
  end
end
