-- Says that a replica of tollgate is alive, and counts those that are.
--
--   KEYS[1]  "id since id since ...": when each was last heard of (us)
--   ARGV[1]  the id of this replica, in hexadecimal
--   ARGV[2]  how long a replica counts after it was last heard of (us)
--
--   Answer: { now (us), 1, how many are alive, 0 }, as charge.lua answers about one limit.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lasts = ARGV[2] + 0

local alive, count = ARGV[1] .. string.format(' %d', now), 1
for id, since in string.gmatch(redis.call('GET', KEYS[1]) or '', '(%x+) (%d+)') do
  -- After the clock went back, nothing lies in the future.
  since = math.min(since + 0, now)
  if id ~= ARGV[1] and now < since + lasts and count < 1000 then
    alive, count = alive .. string.format(' %s %d', id, since), count + 1
  end
end
redis.call('SET', KEYS[1], alive, 'PX', string.format('%d', math.ceil(lasts / 1000)))
return { now, 1, count, 0 }
