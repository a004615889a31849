-- Roll up metrics: take over what the enqueues have counted, and add some pairs of a minute that is over to the longer
-- periods and the totals. Any number of schedulers may call it at any time: a pair is added once.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix.
-- Returns 1 if more is to be rolled up, else 0.
-- Touches: boilerd:metrics:enqueued (DEL), boilerd:metrics:minute:N, boilerd:metrics:ten:N, boilerd:metrics:hour:N,
--   boilerd:metrics:day:N, boilerd:metrics:total (HSET, HDEL, EXPIRE), boilerd:metrics:rolled (SET EX),
--   boilerd:metrics:order (ZADD, DEL).

local this = math.floor(now() / 60)
local minute, index = rolled_up(this)
local first, first_index = minute, index
local total, longest_s = OWN .. ':metrics:total', METRIC_PERIODS.day[2]

local function take_enqueued()
  local enqueued = OWN .. ':metrics:enqueued'
  local found = own_call('HGETALL', enqueued)
  if #found == 0 then return end
  local key = minute_key(open_minute(this))
  for i = 1, #found, 2 do merge(key, found[i], add({}, {[ENQUEUED] = tonumber(found[i + 1])})) end
  call('DEL', enqueued)
  call('EXPIRE', key, METRIC_PERIODS.minute[2] + 3600)
end

-- The names of a minute's pairs, which change no more when it is over, by their bytes: Lua's own order is that of the
-- server's language. A hash with more of them is foreign.
local function names_of(key)
  local length = own_call('HLEN', key)
  if length == 0 or length > MOST_PAIRS then return {} end
  local order, scored = OWN .. ':metrics:order', {}
  for _, name in ipairs(call('HKEYS', key)) do
    scored[#scored + 1] = 0
    scored[#scored + 1] = name
  end
  call('DEL', order)
  call('ZADD', order, unpack(scored))
  local names = call('ZRANGE', order, 0, -1)
  call('DEL', order)
  return names
end

-- Once a day: the totals of pairs that were not seen for so long.
local function forget_unseen()
  local found = own_call('HGETALL', total)
  for i = 1, #found, 2 do
    if (unpacked(found[i + 1])[LAST_MINUTE] or 0) < minute - longest_s / 60 then call('HDEL', total, found[i]) end
  end
end

local function roll(key, names, last)
  local kept = {[total] = longest_s}
  for period, times in pairs(METRIC_PERIODS) do
    if period ~= 'minute' then
      kept[OWN .. ':metrics:' .. period .. ':' .. math.floor(minute * 60 / times[1])] = times[2] + 3600
    end
  end
  for i = index + 1, last do
    local record = unpacked(call('HGET', key, names[i]))
    for longer in pairs(kept) do
      record[LAST_MINUTE] = longer == total and minute or nil
      merge(longer, names[i], record)
    end
  end
  for longer, ttl in pairs(kept) do call('EXPIRE', longer, ttl) end
end

take_enqueued()
local names = names_of(minute_key(minute))
while index >= #names and minute < this - 1 do
  minute, index = math.max(minute + 1, this - METRIC_PERIODS.minute[2] / 60), 0
  if minute % 1440 == 0 then forget_unseen() end
  names = names_of(minute_key(minute))
end
if minute < this and index < #names then
  local last = math.min(index + MOST_ROLLED, #names)
  roll(minute_key(minute), names, last)
  index = last
end
if minute ~= first or index ~= first_index then
  call('SET', OWN .. ':metrics:rolled', minute .. ':' .. index, 'EX', longest_s)
end
return minute < this and (index < #names or minute < this - 1) and 1 or 0
