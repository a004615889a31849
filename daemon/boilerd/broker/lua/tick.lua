-- Take a tick of a periodic task, once on however many hosts, store its task, and note how that went in the history of
-- its entry.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 name of the entry, 4 tick (epoch), 5 how many ticks were missed before it, 6 why
--   it is passed over, then the task, as store.lua describes it; no task: the tick is only passed over.
-- Returns {1, answer} if the tick was taken: the answer to its task, as of enqueue.lua, if there was one; {0} if
--   another host had taken it, or a later one. A later one that is more than an hour ahead does not count: it was
--   taken while Redis's clock was wrong.
-- Touches: boilerd:cron:paused and boilerd:pauses (reads; the ticks of an entry in the first pass without a task, until
--   the end that the second may have), boilerd:cron (hash: name → last
--   tick; expires 400 days after the last tick of all), boilerd:ticks:NAME (list: the last ticks as JSON, latest first;
--   expires 400 days after the last one), and the keys that enqueue.lua touches.

local ticks, history = OWN .. ':cron', OWN .. ':ticks:' .. ARGV[3]
local last = tonumber(own_call('HGET', ticks, ARGV[3])) or 0
if last >= tonumber(ARGV[4]) and last < seconds + 3600 then return {0} end

-- Whether a pause of the entry has an end that is not after the tick.
local function is_over()
  local is_read, pause = pcall(cjson.decode, redis.pcall('HGET', OWN .. ':pauses', 'cron:' .. ARGV[3]))
  local till = is_read and type(pause) == 'table' and tonumber(pause['until'])
  return till and till <= tonumber(ARGV[4])
end

local is_paused = redis.pcall('HEXISTS', OWN .. ':cron:paused', ARGV[3]) == 1 and not is_over()

-- Why the task was not stored; nil: it was.
local function refusal_of(answer)
  if is_paused then return 'it is paused' end
  if answer == nil then return ARGV[6] end
  if answer == STORED_PENDING or answer == STORED_SCHEDULED then return nil end
  if answer == ID_TAKEN or answer == ID_REMEMBERED then return 'a task of its ID was there already' end
  if answer == QUEUE_FULL then return 'its queue was full' end
  return 'task ' .. tostring(answer):sub(1, MOST_TEXT) .. ' holds its unique lock'
end

-- The history is worth no failure: the tick is taken, whatever stands in its place.
local function note(answer)
  local why = refusal_of(answer)
  local line = cjson.encode({tick = tonumber(ARGV[4]), at = seconds, missed = tonumber(ARGV[5]), why = why,
    id = not why and ARGV[7] or nil, queue = not why and ARGV[8] or nil})
  if redis.pcall('TYPE', history).ok ~= 'list' then redis.pcall('DEL', history) end
  redis.pcall('LPUSH', history, line)
  redis.pcall('LTRIM', history, 0, MOST_TICKS - 1)
  redis.pcall('EXPIRE', history, TICKS_TTL_S)
end

-- Before the tick is used up: if this fails, the tick is tried again.
local answer = #ARGV > 6 and not is_paused and store(7) or nil
call('HSET', ticks, ARGV[3], ARGV[4])
call('EXPIRE', ticks, TICKS_TTL_S)
note(answer)
count_stored()
return {1, answer}
