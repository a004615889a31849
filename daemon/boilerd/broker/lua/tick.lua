-- Take a tick of a periodic task, once on however many hosts, and store its task.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 name of the entry, 4 tick (epoch), then the task, as store.lua describes it;
--   no task: the tick is only passed over.
-- Returns {1, answer} if the tick was taken: the answer to its task, as of enqueue.lua, if there was one; {0} if
--   another host had taken it, or a later one. A later one that is more than an hour ahead does not count: it was
--   taken while Redis's clock was wrong.
-- Touches: boilerd:cron (hash: name → last tick; expires 400 days after the last tick of all), and the keys that
--   enqueue.lua touches.

local ticks = OWN .. ':cron'
local last = tonumber(own_call('HGET', ticks, ARGV[3])) or 0
if last >= tonumber(ARGV[4]) and last < seconds + 3600 then return {0} end
-- Before the tick is used up: if this fails, the tick is tried again.
local answer = #ARGV > 4 and store(5) or nil
call('HSET', ticks, ARGV[3], ARGV[4])
call('EXPIRE', ticks, 400 * 86400)
count_stored()
return {1, answer}
