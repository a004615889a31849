-- Tell what a list shows of its tasks, digests of that, or both: a list that is looked at again is as before, as a rule.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 'digests', 'rows' or 'both', then task IDs.
-- Returns how many of the tasks it has looked at, which is all of them, unless these are much together; their digests, in
--   one text; and, where rows are wanted, for each how many bytes of data it has, and the values of LISTED_FIELDS, nil for
--   what it lacks: of one with more than MOST_LISTED bytes, those of SMALL_FIELDS alone, and none of what is no record.
-- Reads: rq:job:ID. Writes nothing.

local has_digests, has_rows = ARGV[3] ~= 'rows', ARGV[3] ~= 'digests'
local looked, bytes, digests, answer = 0, 0, {}, {}

local function add(size, record)
  looked = looked + 1
  bytes = bytes + math.min(size, MOST_LISTED)
  if has_digests then digests[looked] = redis.sha1hex(cmsgpack.pack(size, record)) end
  if has_rows then
    answer[2 * looked + 1] = size
    answer[2 * looked + 2] = record
  end
end

for i = 4, #ARGV do
  local key = RQ .. ':job:' .. ARGV[i]
  local size = redis.pcall('HSTRLEN', key, 'data')
  if type(size) == 'number' then
    add(size, call('HMGET', key, unpack(size > MOST_LISTED and SMALL_FIELDS or LISTED_FIELDS)))
  elseif size.err:find('WRONGTYPE', 1, true) then
    add(0, {})
  else -- one of permissions says nothing about the key, and is raised again
    return call('HSTRLEN', key, 'data')
  end
  if bytes > MOST_LISTED_BYTES then break end
end
answer[1], answer[2] = looked, table.concat(digests)
return answer
