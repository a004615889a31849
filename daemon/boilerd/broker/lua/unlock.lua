-- Release a unique lock that a task holds, as long as that one still has it.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 queue, 4 task type, 5 digest of the payload, 6 job ID of its holder, 7 whether
--   it is released also where that task lives and has not ended (1 or 0).
-- Returns 'done', 'free', 'held ID' where another task holds it, or 'lives STATUS' with RQ's word for the state.
-- Touches: boilerd:unique:… (DEL). Reads: rq:job:ID.

local lock = OWN .. ':unique:' .. ARGV[3] .. ':' .. ARGV[4] .. ':' .. ARGV[5]
local value = redis.pcall('GET', lock)
if type(value) ~= 'string' then return 'free' end
local id = value:match('^ttl:(.*)$') or value
if id ~= ARGV[6] then return 'held ' .. id end
local status = fields_of(RQ .. ':job:' .. id, 'status')[1]
local has_ended = not status or status == 'finished' or status == 'failed' or status == 'stopped' or status == 'canceled'
if not has_ended and ARGV[7] ~= '1' then return 'lives ' .. status end
call('DEL', lock)
return 'done'
