-- Find out from when on the ticks of periodic tasks count, and remember it: the last tick that was taken, or the moment
-- at which an entry was first seen with its schedule. What was due before that is not missed.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, then for each entry its name and its schedule, as text.
-- Returns for each entry that moment (epoch).
-- Touches: boilerd:cron (reads), boilerd:schedules (hash: name → 'SINCE SCHEDULE'; expires 400 days after the last
--   start of a scheduler).

local ticks, schedules = OWN .. ':cron', OWN .. ':schedules'
local seconds = now()
local moments = {}

-- A moment that was written while Redis's clock was ahead counts as now; a stranger's value for none.
local function moment_of(value)
  local number = tonumber(value)
  return number and number >= 0 and math.min(number, seconds) or nil
end

for i = 3, #ARGV, 2 do
  local name, schedule = ARGV[i], ARGV[i + 1]
  local last = moment_of(own_call('HGET', ticks, name))
  local found = own_call('HGET', schedules, name)
  local since, known = (found or ''):match('^(%S+) (.*)$')
  since = known == schedule and moment_of(since)
  if not since then
    -- Nothing found beside a last tick: an earlier daemon took it, which remembered no schedules.
    since = not found and last or seconds
    call('HSET', schedules, name, stamp(since) .. ' ' .. schedule)
  end
  moments[#moments + 1] = stamp(math.max(since, last or 0))
end
call('EXPIRE', schedules, 400 * 86400)
return moments
