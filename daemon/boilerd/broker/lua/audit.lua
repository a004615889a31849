-- Functions of the scripts that do what a person asks: each notes in boilerd:audit (XADD) who did what.

-- Answers that say that it was done, and what others mean.
local IS_DONE = {done = true, deleted = true, told = true}
local MEANING = {unknown = 'there is no such task', ended = 'it had ended'}

-- Note what was done. `first` says where in ARGV these four stand: the user, empty where nothing is to be noted; the host;
-- from where; and on what it was done, as JSON. `outcome` is 'done', 'refused', 'failed' or 'interrupted'.
-- Returns why there is no entry, where there should be one: what was done counts all the same.
local function note(first, what, count, outcome, why)
  local user, host, via, on = ARGV[first], ARGV[first + 1], ARGV[first + 2], ARGV[first + 3]
  if not user or user == '' then return nil end
  local answer = redis.pcall('XADD', OWN .. ':audit', 'MAXLEN', '~', MOST_AUDITED, '*', 'user', user, 'host', host,
    'via', via, 'what', what, 'on', on, 'count', count, 'outcome', outcome, 'why', why:sub(1, MOST_TEXT))
  return type(answer) == 'table' and answer.err or nil
end

-- Note the answer for one task.
local function note_answer(first, what, answer)
  if IS_DONE[answer] then return note(first, what, 1, 'done', '') end
  local rival = answer:match('^locked (.*)$')
  local why = rival and 'task ' .. rival .. ' holds its unique lock' or MEANING[answer] or 'it is ' .. answer
  return note(first, what, 0, 'refused', why)
end
