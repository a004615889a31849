-- Take pending jobs off their queue's list, also many of them from its depth; a part of act.lua and place.lua.
--
-- `first_place` is at which place of the list the first of `count` jobs was found, 0 for a job that one names.

-- So many tasks may have left or entered the queue's head since somebody looked.
local PLACES_NEAR = 1000

-- Where jobs deep in the queue's list stand by now: workers have taken some before them, or put some back.
local places
local function place_of(queue, job, first_place, count)
  if first_place <= PLACES_NEAR then return nil end
  if not places then
    places = {}
    local from, to = first_place - PLACES_NEAR, first_place + count + PLACES_NEAR
    local ids = redis.pcall('LRANGE', RQ .. ':queue:' .. queue, from, to)
    for i, id in ipairs(ids) do places[id] = from + i - 1 end
  end
  return places[job]
end

-- Take a pending job off its queue's list; true if it was there. To remove many from the depth of a long list would walk
-- it each time; so a blank takes its place, which workers pass over, until Broker.remove_blanks: is_blank tells it.
local is_blank
local function strike(queue, job, first_place, count)
  is_blank = false
  local place, key = place_of(queue, job, first_place, count), RQ .. ':queue:' .. queue
  if not place or call('LINDEX', key, place) ~= job then return unlist(queue, job) == 1 end
  call('LSET', key, place, '')
  is_blank = true
  return true
end
