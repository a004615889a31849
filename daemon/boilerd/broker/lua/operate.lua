-- Change the record of an operation, if it is as the caller takes it to be.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 the operation's ID, 4 the states in which it has to be, each behind a comma and
--   before one, 5 who has to work on it, '' anybody, 6 for how many seconds nobody may have given a sign of life, 0: no
--   matter, 7 whether this is one, 8 the field that gets this moment, '' none; then names and values of further fields.
-- Returns 1 and who wants it to stop, '' nobody; or 0 and the state in which it is, '' if it is gone.
-- Touches: boilerd:op:ID (HSET).

local key = OWN .. ':op:' .. ARGV[3]
local fields = fields_of(key, 'state', 'runner', 'beat', 'wanted')
local state = fields[1] or ''
local seconds = now()
local is_theirs = ARGV[5] == '' or fields[2] == ARGV[5]
local is_silent = seconds - (tonumber(fields[3] or 0) or 0) >= tonumber(ARGV[6])
if state == '' or not ARGV[4]:find(',' .. state .. ',', 1, true) or not (is_theirs and is_silent) then return {0, state} end
local changes = {}
if ARGV[7] == '1' then changes = {'beat', stamp(seconds)} end
if ARGV[8] ~= '' then
  changes[#changes + 1] = ARGV[8]
  changes[#changes + 1] = stamp(seconds)
end
for i = 9, #ARGV do changes[#changes + 1] = ARGV[i] end
if #changes > 0 then call('HSET', key, unpack(changes)) end
return {1, fields[4] or ''}
