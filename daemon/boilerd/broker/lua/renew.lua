-- Renew leases of a worker with several slots, and say which of its claims are not wanted any more; or only say it.
--
-- extend.lua renews all that a worker holds, and RQ's records with it; of thousands of claims that takes Redis too long.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 worker name, 4 queue, 5 whether to renew: 1 or 0, 6 resident bytes of the worker
--   and 7 milliseconds of CPU that it used ('': not known), then for each claim of that queue its job ID:execution ID and
--   its concurrency key ('': none).
-- Returns for each claim that is not wanted {job ID:execution ID, whether it has its lease: 1 or 0, and of the job hash
--   status, worker_name, cancel_requested}. A claim whose task is to be cancelled is renewed until it ends.
-- Touches, renewing: rq:worker:W (last_heartbeat, rss, cpu_ms, EXPIRE), rq:worker:W:executions (EXPIRE: a day),
--   rq:wip:Q (ZADD XX), boilerd:running:KEY (ZADD, EXPIRE: a day).

local worker, wip, is_renewing = ARGV[3], RQ .. ':wip:' .. ARGV[4], ARGV[5] == '1'
local worker_key = RQ .. ':worker:' .. worker
local seconds = now()
local claims, kept, unwanted = {}, {}, {}

if is_renewing then
  -- The record may be gone: the worker registers itself again, and keeps its claims meanwhile.
  if call('EXPIRE', worker_key, WORKER_TTL_S) == 1 then show_life(worker_key, iso(seconds), ARGV[6], ARGV[7]) end
  call('EXPIRE', worker_key .. ':executions', CLAIMS_TTL_S)
end
for i = 8, #ARGV, 2 do claims[#claims + 1] = ARGV[i] end
if #claims == 0 then return {} end

local score, share = lease_score(seconds + LEASE_S), stamp(seconds + LEASE_S)
local leases = redis.pcall('ZMSCORE', wip, unpack(claims)) -- none where a foreign key stands there
for i, claim in ipairs(claims) do
  local job, key = claim:match('^(.*):') or '', ARGV[7 + 2 * i]
  local fields = fields_of(RQ .. ':job:' .. job, 'status', 'worker_name', 'cancel_requested')
  local is_held = leases[i] and runs_with(worker, fields[1], fields[2])
  if is_held then
    kept[#kept + 1] = score
    kept[#kept + 1] = claim
    if key ~= '' and is_renewing then
      own_call('ZADD', OWN .. ':running:' .. key, share, job)
      call('EXPIRE', OWN .. ':running:' .. key, CLAIMS_TTL_S)
    end
  end
  if not is_held or fields[3] then
    unwanted[#unwanted + 1] = {claim, leases[i] and 1 or 0, fields[1], fields[2], fields[3]}
  end
end
if is_renewing and #kept > 0 then call('ZADD', wip, 'XX', unpack(kept)) end
return unwanted
