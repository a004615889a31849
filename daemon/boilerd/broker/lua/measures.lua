-- Records of metrics, as tasks/metric_record.py describes them; scripts.py puts this file behind common.lua.

local IS_MAXIMUM = {}
for _, key in ipairs(MAXIMA) do IS_MAXIMUM[key] = true end

local function minute_key(minute)
  return OWN .. ':metrics:minute:' .. minute
end

-- How a hash of records calls a queue and type: the number says where the type begins, whatever is in either.
local function pair_name(queue, task_type)
  return #queue .. ':' .. queue .. ':' .. task_type
end

-- The name under which the tasks of a pair are counted that have no room for one of their own.
local function name_beside(name)
  local length, rest = name:match('^(%d%d?%d?%d?):(.*)$')
  return pair_name(length and rest:sub(1, tonumber(length)) or OTHER, OTHER)
end

-- Add a record to another, as far as it is one: whoever can write to Redis may have put anything there.
local function add(record, other)
  for key, number in pairs(type(other) == 'table' and other or {}) do
    if type(key) == 'number' and type(number) == 'number' and number > 0 and number < 2^53 then
      local known = record[key] or 0
      record[key] = IS_MAXIMUM[key] and math.max(known, number) or known + number
    end
  end
  return record
end

-- The record of a packed text; empty where it is none.
local function unpacked(packed)
  local is_sound, found = false, nil
  if packed and #packed < 4096 then is_sound, found = pcall(cmsgpack.unpack, packed) end
  return add({}, is_sound and found)
end

-- Under which name a pair that the hash does not have yet is counted there: it has only so many fields, and some of
-- them are kept free for the other types of queues.
local function name_in(key, name)
  local length, beside = call('HLEN', key), name_beside(name)
  if length < MOST_PAIRS - MOST_OTHERS then return name end
  if length < MOST_PAIRS - 1 or call('HEXISTS', key, beside) == 1 then return beside end
  return pair_name(OTHER, OTHER)
end

-- Add a record to that of a pair.
local function merge(key, name, record)
  if not next(record) then return end
  local known = own_call('HGET', key, name)
  if not known then
    name = name_in(key, name)
    known = call('HGET', key, name)
  end
  call('HSET', key, name, cmsgpack.pack(add(unpacked(known), record)))
end

-- The minute that is rolled up, or was the last, and how many of its pairs are: boilerd:metrics:rolled. One that is more
-- than an hour ahead was rolled up while Redis's clock was wrong; no minute before this one is rolled up once more.
local function rolled_up(this)
  local found = redis.pcall('GET', OWN .. ':metrics:rolled')
  if not found then return this - METRIC_PERIODS.minute[2] / 60, 0 end
  local minute, index = tostring(found):match('^(%d+):(%d+)$')
  if minute and tonumber(minute) <= this + 60 then return tonumber(minute), tonumber(index) end
  return this - 1, MOST_PAIRS
end

-- The minute to which numbers are added: this one; or where the clock was put back, the first that is not rolled up.
local function open_minute(this)
  return math.max(this, rolled_up(this) + 1)
end
