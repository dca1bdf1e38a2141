-- Decides about one request and charges it: every limit of every matching rule, in one round trip, all or nothing.
--
--   KEYS[i]             the counter of limit i
--   ARGV[7(i-1) + 1..7] its algorithm (1 fixed_window, 2 sliding_window, 3 token_bucket), group, cost, amount (of a bucket:
--                       its burst), window (us), tokens and period (us): a bucket's rate in lowest terms
--   answer              { admitted 0|1, now (us), then for each limit: fits 0|1, remaining, wait (us) }
--
-- Group 0 is enforced: if one of its limits does not fit, nothing is written at all. Every other group is one shadow rule:
-- if one of its limits does not fit, only that group is not written. The arithmetic is that of src/limit/*.rs, line by
-- line, and explained there; a property test compares the two. Numbers here are doubles, exact up to 2^53.

local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local MAX_EXACT, MAX_WAIT = 9007199254740992, 70368744177664

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- floor(a * b / c) and its remainder, exact for a <= c < 2^45 and b < 2^49: long division by digits of 7 bits.
local function mul_div(a, b, c)
  local product = a * b
  if product < MAX_EXACT then
    return floor(product / c), product % c
  end
  local quotient, rest = 0, 0
  local digit = 4398046511104 -- 2^42
  while digit >= 1 do
    local sum = rest * 128 + a * (floor(b / digit) % 128)
    quotient, rest = quotient * 128 + floor(sum / c), sum % c
    digit = digit / 128
  end
  return quotient, rest
end

local function mul_div_ceil(a, b, c)
  local quotient, rest = mul_div(a, b, c)
  return rest > 0 and quotient + 1 or quotient
end

-- A counter that tollgate did not write is an error, not a zero: its caller would be without a limit.
local function numbers(key, pattern)
  local value = redis.call('GET', key)
  if not value then
    return nil
  end
  local a, b, c, d, e, f = string.match(value, pattern)
  if not a then
    error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
  end
  return tonumber(a), tonumber(b), tonumber(c), tonumber(d), tonumber(e), tonumber(f)
end

-- Each returns: fits, remaining, wait, value to store, expiry. See src/limit/fixed_window.rs.
local function fixed_window(key, now, cost, amount, window)
  local count, start = numbers(key, '^(%d+) (%d+)$')
  if count and now < start + window then
    start = min(start, now)
  else
    count, start = 0, now
  end
  local fits = count + cost <= amount
  if fits then
    count = count + cost
  end
  local wait = start + window - now
  if cost > amount then
    wait = window
  elseif fits and count == 0 then
    wait = 0
  end
  return fits, max(amount - count, 0), wait, string.format('%.0f %.0f', count, start), start + window
end

-- When at most `target` of the `count` requests between first and last still count. See src/limit/sliding_window.rs.
local function fades_to(target, count, first, last, window)
  local whole = floor((last - first) / count) * target
  local part = mul_div(target, (last - first) % count, count)
  return last + window - whole - part
end

local function sliding_window(key, now, cost, amount, window)
  local count, first, last, old, old_first, old_last = numbers(key, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not count then
    count, first, last, old, old_first, old_last = 0, 0, 0, 0, 0, 0
  end
  first, last = min(first, now), min(last, now)
  old_first, old_last = min(old_first, now), min(old_last, now)
  if now >= first + window then
    old, old_first, old_last = count, first, last
    count, first, last = 0, 0, 0
  end
  if now >= old_last + window then
    old, old_first, old_last = 0, 0, 0
  end

  local fading, left, length = 0, old_last + window - now, old_last - old_first
  if left > 0 then
    fading = left >= length and old or mul_div_ceil(left, old, length)
  end
  local fits = count + fading + cost <= amount
  if fits and cost > 0 then
    if count == 0 then
      first = now
    end
    count, last = count + cost, now
  end
  local used, wait = count + fading, 0
  local target = fits and used - 1 or amount - cost
  if target >= count then
    wait = fades_to(target - count, old, old_first, old_last, window) - now
  elseif target >= 0 then
    wait = fades_to(target, count, first, last, window) - now
  elseif not fits then
    wait = window
  end
  local value = string.format('%.0f %.0f %.0f %.0f %.0f %.0f', count, first, last, old, old_first, old_last)
  return fits, max(amount - used, 0), wait, value, max(last, old_last) + window
end

-- How long it takes until `count` tokens have flowed back. See src/limit/token_bucket.rs.
local function time_for(count, tokens, period)
  local periods = floor(count / tokens)
  if periods * period >= MAX_WAIT then
    return MAX_WAIT
  end
  return periods * period + mul_div_ceil(count % tokens, period, tokens)
end

local function token_bucket(key, now, cost, burst, window, tokens, period)
  local used, since = numbers(key, '^(%d+) (%d+)$')
  local refilled = 0
  if used then
    since = min(since, now)
    local periods = floor((now - since) / period)
    if periods * tokens >= used then
      used, since = 0, now
    else
      used, since = used - periods * tokens, since + periods * period
      refilled = mul_div(now - since, tokens, period)
      if refilled >= used then
        used, since, refilled = 0, now, 0
      end
    end
  else
    used, since = 0, now
  end
  local owed = used - refilled
  local fits = owed + cost <= burst
  if fits then
    used = used + cost
  end
  local wait
  if fits then
    wait = used > refilled and since + time_for(refilled + 1, tokens, period) - now or 0
  elseif cost > burst then
    wait = window
  else
    wait = since + time_for(refilled + owed + cost - burst, tokens, period) - now
  end
  return fits, max(burst - (used - refilled), 0), wait, string.format('%.0f %.0f', used, since),
    since + time_for(used, tokens, period)
end

local ALGORITHMS = { fixed_window, sliding_window, token_bucket }

local now = clock()
local answer, writes, denied = { 1, now }, {}, {}
for i, key in ipairs(KEYS) do
  local at = 7 * (i - 1)
  local group, cost = ARGV[at + 2], tonumber(ARGV[at + 3])
  local fits, remaining, wait, value, expires = ALGORITHMS[tonumber(ARGV[at + 1])](
    key, now, cost, tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7]))
  if not fits then
    denied[group] = true
  elseif cost > 0 then
    writes[#writes + 1] = { group, key, value, expires }
  end
  answer[3 * i], answer[3 * i + 1], answer[3 * i + 2] = fits and 1 or 0, remaining, wait
end
if denied['0'] then
  answer[1] = 0
  return answer
end
for _, write in ipairs(writes) do
  if not denied[write[1]] then
    redis.call('SET', write[2], write[3], 'PX', max(ceil((write[4] - now) / 1000), 1))
  end
end
return answer
