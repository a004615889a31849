-- Read fields of the records of many workers in one command.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many fields, then their names, then the keys of the records.
-- Returns for each record a list of its fields in that order, nil for what it lacks; 0 for a key of another kind.
-- Reads: rq:worker:W. Writes nothing.

local fields, found = {}, {}
for i = 1, tonumber(ARGV[3]) do fields[i] = ARGV[3 + i] end
for i = 4 + #fields, #ARGV do
  local record = redis.pcall('HMGET', ARGV[i], unpack(fields))
  if record.err then
    -- Any other error, such as one of permissions, says nothing about the key, and is raised again.
    if not record.err:find('WRONGTYPE', 1, true) then return call('HMGET', ARGV[i], unpack(fields)) end
    record = 0
  end
  found[#found + 1] = record
end
return found
