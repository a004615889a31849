-- Note what a person did, where no script did it.
--
-- KEYS: none.
-- ARGV: 1 RQ's prefix, 2 own prefix, 3 to 6 who did it, as audit.lua has it, 7 what, 8 with how many, 9 the outcome,
--   10 why that.
-- Returns why there is no entry; '' where there is one.
-- Touches: boilerd:audit (XADD).

return note(3, ARGV[7], ARGV[8], ARGV[9], ARGV[10]) or ''
