-- Follows the changes that people make to counters: replicas have to forget what they remember.
--
--   KEYS[1]  "changes id since done id since done ...": how many changes there were; and of each
--            replica, when it was last heard of (us), and how many of them it has followed
--   ARGV[1]  the id of this replica, in hexadecimal
--   ARGV[2]  how many it has followed; or 'new': it announces another; or 'all': it only asks whether
--            all have followed
--   ARGV[3]  how long a replica counts after it was last heard of (us)
--
--   Answer: { now (us), 1, changes, replicas that have not followed them all }, as charge.lua answers
--   about one limit.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local id, done, lasts = ARGV[1], tonumber(ARGV[2]), ARGV[3] + 0

local stored = redis.call('GET', KEYS[1]) or '0'
local changes = tonumber(string.match(stored, '^%d+')) or 0
local is_news = done or ARGV[2] == 'new'
if ARGV[2] == 'new' then
  changes = changes + 1
end

local known, count, behind = {}, 0, 0
local function keep(id, since, done)
  known[#known + 1] = string.format(' %s %d %d', id, since, done)
  count = count + 1
  if done < changes then
    behind = behind + 1
  end
end
for other, since, followed in string.gmatch(stored, ' (%x+) (%d+) (%d+)') do
  since, followed = math.min(since + 0, now), followed + 0
  if other == id and done then
    -- Not written again for each look.
    is_news = followed ~= done or now >= since + lasts / 4
  elseif now < since + lasts and count < 1000 then
    keep(other, since, followed)
  end
end
if done then
  keep(id, now, done)
end
if is_news then
  local value = string.format('%d', changes) .. table.concat(known)
  -- A number that comes back lower would be no news.
  redis.call('SET', KEYS[1], value, 'PX', 86400000)
end
return { now, 1, changes, behind }
