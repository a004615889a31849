-- What several scripts need; broker.py puts this text in front of each of them.
--
-- Every script gets in ARGV[1] RQ's key prefix and in ARGV[2] boilerd's own. Times are Redis's:
-- no host's clock decides anything. Keys of jobs are made inside the scripts, because their
-- IDs are only known there: on a cluster the prefix must hold a hash tag.

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
  local whole = math.floor(rest)
  local micros = math.min(999999, math.floor((rest - whole) * 1e6 + 0.5))
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, day,
    math.floor(whole / 3600), math.floor(whole / 60) % 60, whole % 60, micros)
end

-- Counters of a queue and day: hash boilerd:stats:Q:DAY with processed and failed; DAY counts
-- from 1970-01-01. Kept 90 days.
local function count(queue, seconds, failed)
  local key = OWN .. ':stats:' .. queue .. ':' .. math.floor(seconds / 86400)
  if call('HINCRBY', key, 'processed', 1) == 1 then call('EXPIRE', key, 90 * 86400) end
  if failed then call('HINCRBY', key, 'failed', 1) end
end

-- Ring for one idle worker. Tokens beyond a few would only wake workers for nothing later.
local function ring(queue)
  local key = OWN .. ':bell:' .. queue
  if call('LLEN', key) < 128 and call('RPUSH', key, '1') == 1 then call('EXPIRE', key, 300) end
end

-- Give up the claim. Answers whether the lease was still held: where it was not, another
-- process owns the task by now and the caller must not touch it.
local function drop_claim(job, execution, queue, worker)
  local claim = job .. ':' .. execution
  call('SREM', RQ .. ':worker:' .. worker .. ':executions', claim)
  call('DEL', RQ .. ':execution:' .. claim)
  call('ZREM', RQ .. ':executions:' .. job, execution)
  return call('ZREM', RQ .. ':wip:' .. queue, claim) == 1
end

-- Forget the task altogether.
local function delete(job)
  call('DEL', RQ .. ':job:' .. job, RQ .. ':results:' .. job, RQ .. ':executions:' .. job)
end

-- Add how an attempt ended to the stream that RQ's tools read; type 1 success, 2 failed.
local function record(job, execution, worker, kind, started, ended, field, value)
  call('XADD', RQ .. ':results:' .. job, 'MAXLEN', 30, '*', 'type', kind, 'worker_name', worker,
    'execution_id', execution, 'execution_started_at', stamp(started), 'execution_ended_at', stamp(ended),
    field, value)
end

-- RQ's record of the worker may be gone, and must not come back without its TTL.
local function count_on_worker(worker, field, seconds)
  local key = RQ .. ':worker:' .. worker
  if call('EXISTS', key) == 1 then
    call('HINCRBY', key, field, 1)
    call('HINCRBYFLOAT', key, 'total_working_time', stamp(seconds))
  end
end

local function set_worker_state(worker, state)
  local key = RQ .. ':worker:' .. worker
  if call('EXISTS', key) == 1 then call('HSET', key, 'state', state) end
end
