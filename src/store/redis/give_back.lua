-- Takes charges back: because a limit on another node of the cluster did not fit, or because they were
-- made ahead of requests that did not come.
--
--   KEYS[i]              the counter of limit i
--   ARGV[1]              when charge.lua charged it (us)
--   ARGV[5i-3..5i+1]     its algorithm as in charge.lua, and the cost; of a bucket also its tokens and
--                        period, and how many tokens at least were used before what is taken back
--
--   Answer: { now (us), 1 }.
--
-- No counter goes below zero; one of which more was granted is there already, and gets back what was taken.
-- None that has expired comes back, and none keeps its value for longer than before. What cannot be found again stays charged: a window that has ended meanwhile, an entry
-- that has left the log, a bucket that was full since. So a client may have less than without the
-- charge for a moment, and never more. A property test compares the two.

local match, format = string.match, string.format

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local charged = ARGV[1] + 0

for i = 1, #KEYS do
  local key, algorithm, cost = KEYS[i], ARGV[5 * i - 3], ARGV[5 * i - 2] + 0
  local stored = redis.call('GET', key)
  local value

  if not stored then
    value = nil

  elseif algorithm == '2' then
    -- sliding_window: the current window, or the one before it.
    local count, first, last, old, old_first, old_last = match(stored, '^(%-?%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
    if count then
      count, old = count + 0, old + 0
      if first + 0 <= charged and charged <= last + 0 then
        count = (count < 0 or count > cost) and count - cost or 0
      elseif old_first + 0 <= charged and charged <= old_last + 0 then
        old = old > cost and old - cost or 0
      end
      value = format('%d %s %s %d %s %s', count, first, last, old, old_first, old_last)
    end

  elseif algorithm == '1' or algorithm == '6' then
    -- fixed_window: this window, if it has not ended.
    local count, start = match(stored, '^(%-?%d+) (%d+)$')
    if count and start + 0 <= charged then
      -- Empty, it begins with the next request, as if it had never begun.
      local is_granted = count + 0 < 0
      count = count - cost
      value = (is_granted or count > 0) and format('%d %s', count, start) or '0 0'
    end

  elseif algorithm == '4' then
    -- sliding_log: what was charged at this time. Entries of one time are alike.
    local total, rest = match(stored, '^(%d+) %d+(.*)$')
    local granted, since = match(stored, '^(%-%d+) (%d+)')
    if granted and since + 0 <= charged then
      -- It was not remembered: it was taken from what was granted.
      value = format('%d %s %s %d', granted - cost, since, since, granted - cost)
    elseif total then
      local left = cost
      rest = string.gsub(rest, ' (%d+) (%d+)', function(time, of_entry)
        if left > 0 and time + 0 == charged then
          local taken = math.min(left, of_entry + 0)
          left, of_entry = left - taken, of_entry - taken
          return of_entry > 0 and format(' %s %d', time, of_entry) or ''
        end
      end)
      value = left < cost and format('%d %s%s', total - cost + left, match(rest, '(%d+) %d+$') or '0', rest)
    end

  elseif algorithm == '3' then
    -- token_bucket: without the charge, the bucket might have been full meanwhile, and would have gained
    -- nothing. So time since then is taken from it, but not that in which it was not full: while all but one
    -- of the tokens flowed back that were used before. If that would cost more than it brings, all stays as it
    -- is. Above 2^53 the product is not exact.
    local used, since = match(stored, '^(%-?%d+) (%d+)$')
    if used and used + 0 < 0 and since + 0 <= charged then
      value = format('%d %s', used - cost, since)
    elseif used and since + 0 <= charged then
      local tokens, period, before = ARGV[5 * i - 1] + 0, ARGV[5 * i] + 0, ARGV[5 * i + 1] + 0
      local product = math.max(0, before - 1) * period
      local filling = math.floor(product / tokens) - (product < 9007199254740992 and 0 or 1)
      local full = math.max(0, now - charged - filling)
      if full * tokens < cost * period then
        used = used - cost
        value = used > 0 and format('%d %d', used, since + full) or '0 0'
      end
    end
  end

  if value then
    redis.call('SET', key, value, 'XX', 'KEEPTTL')
  end
end
return { now, 1 }
