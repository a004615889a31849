-- Read the records of tasks for a list, of large ones only fields that are small, in one command.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 how many bytes of data a small task has at most, 4 how many small fields there
--   are, then their names, then task IDs.
-- Returns for each task in turn: 0 and the names and values of its record, none where there is no record; or how many
--   bytes of data it has, and the values of the small fields, nil for what it lacks.
-- Reads: rq:job:ID. Writes nothing.

local most, fields, found = tonumber(ARGV[3]), {}, {}
for i = 1, tonumber(ARGV[4]) do fields[i] = ARGV[4 + i] end

local function add(size, record)
  found[#found + 1] = size
  found[#found + 1] = record
end

for i = 5 + #fields, #ARGV do
  local key = RQ .. ':job:' .. ARGV[i]
  local size = redis.pcall('HSTRLEN', key, 'data')
  if type(size) == 'number' then
    if size > most then add(size, call('HMGET', key, unpack(fields))) else add(0, call('HGETALL', key)) end
  elseif size.err:find('WRONGTYPE', 1, true) then
    add(0, {})
  else -- one of permissions says nothing about the key, and is raised again
    return call('HSTRLEN', key, 'data')
  end
end
return found
