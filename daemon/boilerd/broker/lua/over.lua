-- Resume the queues and periodic tasks whose pause has come to its end.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix.
-- Returns the fields of those that were resumed, 'queue:NAME' and 'cron:NAME'; the caller wakes the workers of a queue.
-- Touches: boilerd:pauses, boilerd:cron:paused (HDEL), boilerd:paused (SREM).

local pauses, resumed = OWN .. ':pauses', {}
local found = redis.pcall('HGETALL', pauses)
if found.err then return resumed end
for i = 1, #found, 2 do
  local kind, name = found[i]:match('^(%a+):(.*)$')
  local is_read, pause = pcall(cjson.decode, found[i + 1])
  local till = is_read and type(pause) == 'table' and tonumber(pause['until'])
  if till and till <= now() then
    call('HDEL', pauses, found[i])
    local answer = 0
    if kind == 'queue' then answer = redis.pcall('SREM', OWN .. ':paused', name) end
    if kind == 'cron' then answer = redis.pcall('HDEL', OWN .. ':cron:paused', name) end
    if answer == 1 then resumed[#resumed + 1] = found[i] end
  end
end
return resumed
