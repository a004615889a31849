-- Call tasks that wait for a concurrency key, for a slice of the keys: the script that gives a share back does so as a
-- rule, but a call may have been lost together with a job that was deleted.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 cursor: '0', or what the call before returned.
-- Returns the cursor of the next slice; '0' after the last.
-- Touches for each key of the slice: boilerd:waiting:KEY (ZREM), boilerd:called:KEY (ZADD), boilerd:aside:Q (ZADD,
--   ZREM), boilerd:keys (SREM); and rq:queue:Q (LINSERT), rq:queues, boilerd:queues (SADD) of the tasks that may run.

local seconds = now()
local cursor, names = unpack(own_call('SSCAN', OWN .. ':keys', ARGV[3], 'COUNT', KEYS_SLICE))
local sample = math.ceil(KEYS_SLICE / #names)

-- Workers of version 0.1.0 keep no boilerd:aside:Q: some of those that wait, others each time, are looked at for that.
local function note_aside(key)
  local found = own_call('ZRANDMEMBER', OWN .. ':waiting:' .. key, sample, 'WITHSCORES')
  for i = 1, #found, 2 do
    local job, place = found[i], found[i + 1]
    local fields = fields_of(RQ .. ':job:' .. job, 'status', 'origin')
    if fields[1] == 'queued' and fields[2] then own_call('ZADD', OWN .. ':aside:' .. fields[2], 'NX', place, job) end
  end
end

for _, key in ipairs(names) do
  call_waiting(key, seconds)
  note_aside(key)
end
return cursor
