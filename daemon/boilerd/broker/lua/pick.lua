-- Find, among tasks, those that may fit a search: whoever asks looks at them again.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many bytes of records to read at most, but for that of the first task; 4 how
--   many conditions there are; then four for each: its kind, a field of the job hash, a value, and another form of that;
--   then task IDs. The kinds:
--   'is' the field is the value; 'begins' it begins with it (a type may be so where a job of RQ's has no field for it); 'has' it has the value in it, in small letters; 'there' and
--   'absent'; 'before': the task was not enqueued after that moment, and did not fail after it; 'since' and 'until': the last thing that happened to the task was not before, not after that moment;
--   'word': one of the fields that a list shows or the ID has it, in small letters, or that field; 'data' and
--   'headers': payload or headers have the value, or headers alone, in one of its forms: as JSON, and as JSON in ASCII.
-- Returns {how many were looked at, then the places of those that were found among the IDs, from 1}.
-- Reads: rq:job:ID. Writes nothing.

local most, number = tonumber(ARGV[3]), tonumber(ARGV[4])
local FIRST = 5
local FIRST_ID = FIRST + 4 * number
local MOMENTS = {'enqueued_at', 'started_at', 'last_failed_at', 'ended_at'}
local SHOWN = {'task_type', 'last_error', 'worker_name', 'unique_key', 'concurrency_key'}

-- What each condition needs to know.
local fields, wanted = {}, {}
local function want(...)
  for _, field in ipairs({...}) do
    if not wanted[field] then
      wanted[field] = true
      fields[#fields + 1] = field
    end
  end
end

local function has(text, value)
  return text:find(value, 1, true) ~= nil
end

-- The part of a record's data that is searched; headers stand behind the payload.
local function part_of(data, in_payload)
  return (in_payload and #data <= MOST_SEARCHED) and data or data:sub(-MOST_HEADERS_JSON)
end

local function may_have(data, in_payload, value, escaped)
  if not data or data == '' then return false end
  -- What RQ's tools wrote is compressed.
  if data:byte(1) ~= 91 then return true end
  local part = part_of(data, in_payload)
  return has(part, value) or (escaped ~= value and has(part, escaped))
end

local function has_word(job, id, value, escaped)
  if has(id:lower(), value) then return true end
  for _, field in ipairs(SHOWN) do
    if job[field] and has(job[field]:lower(), value) then return true end
  end
  local data = job.data
  if not data or data == '' then return false end
  if data:byte(1) ~= 91 then return true end
  local part = part_of(data, true):lower()
  return has(part, value) or has(part, escaped)
end

-- RQ writes moments so that texts have their order.
local function last_moment(job)
  local last = job.created_at or ''
  for _, field in ipairs(MOMENTS) do
    if job[field] and job[field] > last then last = job[field] end
  end
  return last
end

-- In what a job of RQ's holds, its function has a place that Lua does not read.
local function is_hidden(job, field)
  return field == 'task_type' and not job[field]
end

local KINDS = {
  is = function(job, _, field, value) return job[field] == value or is_hidden(job, field) end,
  begins = function(job, _, field, value)
    return is_hidden(job, field) or (job[field] and job[field]:sub(1, #value) == value)
  end,
  has = function(job, _, field, value) return job[field] and has(job[field]:lower(), value) end,
  there = function(job, _, field) return job[field] ~= nil end,
  absent = function(job, _, field) return job[field] == nil end,
  before = function(job, _, _, value)
    -- When a job of RQ's was created is told by its client's clock.
    local created = job.task_type and job.created_at or ''
    return created <= value and (job.last_failed_at or '') <= value
  end,
  since = function(job, _, _, value) return last_moment(job) >= value end,
  ['until'] = function(job, _, _, value) return last_moment(job) <= value end,
  word = function(job, id, _, value, escaped) return has_word(job, id, value, escaped) end,
  data = function(job, _, _, value, escaped) return may_have(job.data, true, value, escaped) end,
  headers = function(job, _, _, value, escaped) return may_have(job.data, false, value, escaped) end,
}

for i = FIRST, FIRST_ID - 1, 4 do
  local kind, field = ARGV[i], ARGV[i + 1]
  if kind == 'since' or kind == 'until' then
    want('created_at', unpack(MOMENTS))
  elseif kind == 'before' then
    want('task_type', 'created_at', 'last_failed_at')
  elseif kind == 'word' then
    want(unpack(SHOWN))
    if ARGV[i + 1] ~= '' then want(ARGV[i + 1]) end
  else
    want(field)
  end
end

local function fits(job, id)
  for i = FIRST, FIRST_ID - 1, 4 do
    if not KINDS[ARGV[i]](job, id, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) then return false end
  end
  return true
end

local found, looked, read = {0}, 0, 0
for i = FIRST_ID, #ARGV do
  -- A record that is gone, or is none, has no field.
  local values, job = fields_of(RQ .. ':job:' .. ARGV[i], unpack(fields)), {}
  for place, field in ipairs(fields) do job[field] = values[place] or nil end
  looked, read = looked + 1, read + #(job.data or '')
  if fits(job, ARGV[i]) then found[#found + 1] = looked end
  if read >= most then break end
end
found[1] = looked
return found
