-- Tell what a list shows of its tasks, digests of that, or both: a list that is looked at again is as before, as a rule.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 'digests', 'rows' or 'both', then task IDs.
-- Returns how many of the tasks it has looked at, which is all of them, unless these are much together; digests of each
--   MOST_DIGESTED of these, in one text; and, where rows are wanted, for each how many bytes of data it has, and the
--   values of LISTED_FIELDS, nil for what it lacks: of one with more than MOST_LISTED bytes, those of SMALL_FIELDS
--   alone, and none of what is no record.
-- Reads: rq:job:ID. Writes nothing.

local has_digests, has_rows = ARGV[3] ~= 'rows', ARGV[3] ~= 'digests'
local looked, bytes, digests, some, rows = 0, 0, {}, {}, {}

local function add(size, record)
  looked, bytes = looked + 1, bytes + math.min(size, MOST_LISTED)
  some[#some + 1] = size
  some[#some + 1] = record
  if has_rows then
    rows[#rows + 1] = size
    rows[#rows + 1] = record
  end
end

local function digest()
  if has_digests then digests[#digests + 1] = redis.sha1hex(cmsgpack.pack(some)) end
  bytes, some = 0, {}
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
  -- A digest may not depend on how many tasks a call has, nor on what is wanted of them.
  local is_much = bytes > MOST_LISTED_BYTES
  if is_much or looked % MOST_DIGESTED == 0 or i == #ARGV then digest() end
  if is_much then break end
end
return {looked, table.concat(digests), rows}
