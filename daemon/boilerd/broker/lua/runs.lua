-- Tell what each of many workers runs, in one command.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, then the keys of the workers' records.
-- Returns for each worker a list: how many claims it holds, and of one of them job ID, moment and task type, nil where
--   there is none; 0 for one whose claims are of another kind of key.
-- Reads: rq:worker:W:executions, rq:execution:ID:E, rq:job:ID. Writes nothing.

-- The answer to a command; nil where the key is of another kind.
local function read(...)
  local answer = redis.pcall(...)
  local message = type(answer) == 'table' and answer.err
  if not message then return answer end
  -- Any other error, such as one of permissions, says nothing about the key, and is raised again.
  if not message:find('WRONGTYPE', 1, true) then return call(...) end
end

local found = {}
for i = 3, #ARGV do
  local held = read('SCARD', ARGV[i] .. ':executions')
  local told = held and {held, false, false, false} or 0
  if held and held > 0 then
    local claim = call('SRANDMEMBER', ARGV[i] .. ':executions') -- one with several slots may hold thousands
    local attempt = read('HMGET', RQ .. ':execution:' .. claim, 'job_id', 'created_at') or {false, false}
    local kind = read('HGET', RQ .. ':job:' .. (claim:match('^(.*):') or ''), 'task_type')
    told = {held, attempt[1], attempt[2], kind or false}
  end
  found[#found + 1] = told
end
return found
