-- Mark a failure group, as a person asks, or take the mark back.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 its fingerprint, 4 'acknowledge', 'unacknowledge', 'mute', 'unmute' or 'note',
--   5 the note, '' to remove it; 6 to 9 who does it, as audit.lua has it.
-- Returns {'done', 'same' where it is so already, or 'unknown'; why the audit has no entry, or ''}.
-- Touches: boilerd:failure:FP (acknowledged_at, acknowledged_by, acknowledged_count, acknowledged_release, muted_at,
--   muted_by, note, noted_at, noted_by), boilerd:audit. The marks go with their group.

local key, what, text, BY = OWN .. ':failure:' .. ARGV[3], ARGV[4], ARGV[5], 6
local who, at = ARGV[BY], stamp(now())

local function acknowledge()
  local count = call('HGET', key, 'count') or '0'
  if call('HGET', key, 'acknowledged_count') == count then return false end
  call('HSET', key, 'acknowledged_at', at, 'acknowledged_by', who, 'acknowledged_count', count,
    'acknowledged_release', call('HGET', key, 'last_release') or '')
  return true
end

local function unacknowledge()
  return call('HDEL', key, 'acknowledged_at', 'acknowledged_by', 'acknowledged_count', 'acknowledged_release') > 0
end

local function mute()
  if call('HSETNX', key, 'muted_at', at) == 0 then return false end
  call('HSET', key, 'muted_by', who)
  return true
end

local function unmute()
  return call('HDEL', key, 'muted_at', 'muted_by') > 0
end

local function remark()
  if (call('HGET', key, 'note') or '') == text then return false end
  if text == '' then return call('HDEL', key, 'note', 'noted_at', 'noted_by') > 0 end
  call('HSET', key, 'note', text, 'noted_at', at, 'noted_by', who)
  return true
end

local DO = {acknowledge = acknowledge, unacknowledge = unacknowledge, mute = mute, unmute = unmute, note = remark}

if call('TYPE', key).ok ~= 'hash' or call('HEXISTS', key, 'about') == 0 then
  return {'unknown', note(BY, what, 0, 'refused', 'there is no such failure group') or ''}
end
local is_new = DO[what]()
return {is_new and 'done' or 'same', note(BY, what, is_new and 1 or 0, 'done', '') or ''}
