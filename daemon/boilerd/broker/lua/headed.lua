-- Find, among tasks, those that may have a header, or a request ID in their payload: whoever asks looks at them again.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many bytes of records to read at most, but for that of the first task;
--   4 the header's value as JSON, without the first quote, which is all over the records; 5 the same with all but ASCII as escapes, 6 '1' to look at payloads as well; then task
--   IDs.
-- Returns {how many were looked at, then the places of those that were found among the IDs, from 1}.
-- Reads: rq:job:ID. Writes nothing.

local most, value, escaped, in_payload = tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6] == '1'
local FIRST_ID = 7
local found, looked, read = {0}, 0, 0

local function may_have(data)
  -- What RQ's tools wrote is compressed.
  if data:byte(1) ~= 91 then return true end
  -- Headers stand behind the payload.
  local part = (in_payload and #data <= MOST_SEARCHED) and data or data:sub(-MOST_HEADERS_JSON)
  return part:find(value, 1, true) or (escaped ~= value and part:find(escaped, 1, true))
end

for i = FIRST_ID, #ARGV do
  -- A record that is gone, or is none, has no header.
  local data = redis.pcall('HGET', RQ .. ':job:' .. ARGV[i], 'data')
  data = type(data) == 'string' and data or ''
  looked, read = looked + 1, read + #data
  if data ~= '' and may_have(data) then found[#found + 1] = looked end
  if read >= most then break end
end
found[1] = looked
return found
