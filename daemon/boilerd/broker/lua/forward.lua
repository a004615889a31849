-- Move due tasks to their queues, in the order of their times.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many tasks at most, then names of queues that count as known.
-- Returns {how many were moved, seconds until the next one is due ('' if no task is scheduled)}.
-- Touches for every queue in boilerd:queues and ARGV: rq:scheduled:Q (ZREM), rq:job:ID (status enqueued_at),
--   rq:queue:Q (RPUSH; LPUSH where plain RQ asked for the front), rq:queues, boilerd:queues (SADD), boilerd:bell:Q,
--   boilerd:alarm (DEL).

local limit = tonumber(ARGV[3])
local seconds = now()
local time = iso(seconds)
local moved, next_due = 0, nil

local function forward(queue, job)
  local key = RQ .. ':job:' .. job
  if call('TYPE', key).ok ~= 'hash' then return end
  call('HSET', key, 'origin', queue, 'enqueued_at', time)
  push(queue, job, call('HGET', key, 'enqueue_at_front') == '1')
end

call('DEL', OWN .. ':alarm')
for _, queue in ipairs(served(4)) do
  local scheduled = RQ .. ':scheduled:' .. queue
  local is_sound = is_kind(scheduled, 'zset') and is_kind(RQ .. ':queue:' .. queue, 'list')
  if is_sound and moved < limit then
    local due = call('ZRANGEBYSCORE', scheduled, '-inf', stamp(seconds), 'LIMIT', 0, limit - moved)
    for _, job in ipairs(due) do
      call('ZREM', scheduled, job)
      forward(queue, job)
    end
    moved = moved + #due
  end
  local first = is_sound and call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')[2]
  if first and (not next_due or tonumber(first) < next_due) then next_due = tonumber(first) end
end
return {moved, next_due and stamp(math.max(next_due - seconds, 0)) or ''}
