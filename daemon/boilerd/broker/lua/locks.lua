-- Unique locks, for the scripts that take one; scripts.py puts this file behind common.lua.

-- Whether the task has ended in a way that releases its lock.
local function has_ended(status, unique_until)
  if unique_until == 'end' and (status == 'failed' or status == 'stopped') then return true end
  return status == 'finished' or status == 'canceled'
end

-- The ID of the task that has the lock; false: it is free. A task that RQ's tools deleted, cancelled or ended did not
-- release its lock: such a lock counts as free, unless it is to last until its TTL, whatever becomes of its task.
local function holder_of(lock)
  local value = own_call('GET', lock)
  local lasting = value and value:match('^ttl:(.*)$')
  if not value or lasting then return lasting end
  local fields = fields_of(RQ .. ':job:' .. value, 'unique_key', 'status', 'unique_until')
  return fields[1] == lock and not has_ended(fields[2], fields[3]) and value
end
