-- Move due tasks of a slice of the queues to their queues, in the order of their times.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many tasks at most, 4 cursor of the slice (see `served`), then names of
--   queues that count as known.
-- Returns {how many were moved, seconds until the next one is due ('' if no task is scheduled), cursor of the next
--   slice}.
-- Touches for every queue of the slice: rq:scheduled:Q (ZREM), rq:job:ID (status enqueued_at ready_at),
--   rq:queue:Q (RPUSH; LPUSH where plain RQ asked for the front), rq:queues, boilerd:queues (SADD), boilerd:bell:Q,
--   boilerd:alarm (DEL).

local limit = tonumber(ARGV[3])
local seconds = now()
local time = iso(seconds)
local moved, next_due = 0, nil

local function forward(queue, job, due)
  local key = RQ .. ':job:' .. job
  if call('TYPE', key).ok ~= 'hash' then return end
  call('HSET', key, 'origin', queue, 'enqueued_at', time, 'ready_at', due)
  push(queue, job, call('HGET', key, 'enqueue_at_front') == '1')
end

-- The score of the first task that is scheduled; nil: none, or a foreign key stands there.
local function first_due(scheduled)
  return tonumber(redis.pcall('ZRANGE', scheduled, 0, 0, 'WITHSCORES')[2])
end

if ARGV[4] == '0' then call('DEL', OWN .. ':alarm') end
local queues, cursor = served(ARGV[4], 5)
for _, queue in ipairs(queues) do
  local scheduled = RQ .. ':scheduled:' .. queue
  local first = first_due(scheduled)
  -- Of very many queues most have nothing due before the next look: of those the queue itself need not be looked at.
  local is_later = first and first > seconds + FORWARD_EVERY_S
  local is_sound = is_later or first and is_kind(RQ .. ':queue:' .. queue, 'list')
  if is_sound and first <= seconds and moved < limit then
    local due = call('ZRANGEBYSCORE', scheduled, '-inf', stamp(seconds), 'WITHSCORES', 'LIMIT', 0, limit - moved)
    for i = 1, #due, 2 do
      call('ZREM', scheduled, due[i])
      forward(queue, due[i], due[i + 1])
    end
    moved = moved + #due / 2
    first = first_due(scheduled)
  end
  if is_sound and first and (not next_due or first < next_due) then next_due = first end
end
return {moved, next_due and stamp(math.max(next_due - seconds, 0)) or '', cursor}
