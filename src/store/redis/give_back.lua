-- Takes charges back, because a limit on another node of the cluster did not fit.
--
--   KEYS[i]              the counter of limit i
--   ARGV[1]              when charge.lua charged it (us)
--   ARGV[2i..2i+1]       its algorithm as in charge.lua, and the cost
--
--   Answer: { now (us), 1 }.
--
-- No counter goes below zero, none that has expired comes back, and none keeps its value for longer
-- than before. What cannot be found again stays charged: a window that has ended meanwhile, an entry
-- that has left the log, a bucket that was full since. So a client may have less than without the
-- charge for a moment, and never more. A property test compares the two.

local match, format = string.match, string.format

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local charged = ARGV[1] + 0

for i = 1, #KEYS do
  local key, algorithm, cost = KEYS[i], ARGV[2 * i], ARGV[2 * i + 1] + 0
  local stored = redis.call('GET', key)
  local value

  if not stored then
    value = nil

  elseif algorithm == '2' then
    -- sliding_window: the current window, or the one before it.
    local count, first, last, old, old_first, old_last = match(stored, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
    if count then
      count, old = count + 0, old + 0
      if first + 0 <= charged and charged <= last + 0 then
        count = count > cost and count - cost or 0
      elseif old_first + 0 <= charged and charged <= old_last + 0 then
        old = old > cost and old - cost or 0
      end
      value = format('%d %s %s %d %s %s', count, first, last, old, old_first, old_last)
    end

  elseif algorithm == '1' or algorithm == '6' then
    -- fixed_window: this window, if it has not ended.
    local count, start = match(stored, '^(%d+) (%d+)$')
    if count and start + 0 <= charged then
      -- Empty, it begins with the next request, as if it had never begun.
      count = count - cost
      value = count > 0 and format('%d %s', count, start) or '0 0'
    end

  elseif algorithm == '4' then
    -- sliding_log: the entry of this time and cost.
    local total, rest = match(stored, '^(%d+) %d+(.*)$')
    if total then
      local from, to = string.find(rest .. ' ', format(' %d %d ', charged, cost), 1, true)
      if from then
        rest = string.sub(rest, 1, from - 1) .. string.sub(rest, to)
        value = format('%d %s%s', total - cost, match(rest, '(%d+) %d+$') or '0', rest)
      end
    end

  elseif algorithm == '3' then
    -- token_bucket: all of it, but not what has flowed back since: without the charge, the bucket might
    -- have been full meanwhile, and could have gained nothing.
    local used, since = match(stored, '^(%d+) (%d+)$')
    if used and since + 0 <= charged then
      used, since = used - cost, since + (now > charged and now - charged or 0)
      value = used > 0 and format('%d %d', used, since) or '0 0'
    end
  end

  if value then
    redis.call('SET', key, value, 'XX', 'KEEPTTL')
  end
end
return { now, 1 }
