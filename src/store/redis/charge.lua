-- Decides about one request and charges it: every limit of every matching rule, in one round trip,
-- all or nothing.
--
--   KEYS[i]             the counter of limit i
--   ARGV[8(i-1) + 1..8] its algorithm, group, cost, amount (of a bucket: its burst), window (us),
--                       tokens, period (us), and how many counters of its rule may be new per
--                       second (0: any number)
--
-- The algorithm is one of 1 fixed_window, 2 sliding_window, 3 token_bucket, 4 sliding_log,
-- 5 for a ban, and 6 for a fixed_window that follows the calendar.
--
--   A bucket gains `tokens` per `period`, a fraction in lowest terms.
--   A window of the calendar has the edges of three windows for its tokens: "b0 b1 b2 b3" (us).
--   A ban has: 5, group, how many entries before it are its limits, how many denials begin it,
--   within what time (us), how long it lasts (us), 1 if a limit that is not among KEYS did not fit.
--   ARGV may end with "peek": then limits are not charged, whatever fits.
--
--   Answer: { admitted 0|1, now (us), then for each limit: fits 0|1, remaining, wait (us), then
--           the i of each limit that was charged to its rule's overflow counter }.
--           `remaining` of a ban is 1 if it begins now.
--           { 3, now } if a counter would be new, and must be asked for. Nothing was charged.
--           { 2, now } if `now` is outside the edges of a calendar window. Nothing was charged.
--
-- Group 0 is enforced: if one of its limits does not fit, nothing is written at all. Every other
-- group is a shadow rule: if one of its limits does not fit, that group alone is not written. Bans
-- count denials, and are written in any case.
--
-- The counters of a client that has none of its rule yet take from the rule's budget of new counters,
-- a bucket of as many per second and a minute's worth at most. If that is empty, the rule's overflow counter is
-- charged in its place. Their keys follow from the rule's: see src/counter_key.rs. In a cluster they
-- are in other slots, so there the caller keeps the budget: with "ask" in its place, nothing is
-- written if a counter would be new.
--
-- The arithmetic is that of src/limit/*.rs, line by line, and is explained there. A property test
-- compares the two. Numbers here are doubles, exact up to 2^53. Costs are at least 1. `%d` prints
-- through a C long, so Redis must be a 64-bit build.
--
-- Redis does nothing else while this script runs. Making a function costs more than running most of
-- them would, so the algorithms are written inline, and only what is rarely needed is a function.

local match, format, floor = string.match, string.format, math.floor

-- floor(a * b / c) and its remainder, exact for a <= c < 2^45 and b < 2^49.
-- This is long division by digits of 7 bits.
local function mul_div(a, b, c)
  local product = a * b
  if product < 9007199254740992 then -- 2^53
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

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local answer = { 1, now }
local values, expiries, denied, bans = {}, {}, nil, nil
-- Of new counters: the budgets by their keys, the budget of limit i, the overflow counter of limit i,
-- and whether it must be asked for one.
local budgets, news, shared, unmade

for i = 1, #KEYS do
  local key, at = KEYS[i], 8 * i - 7
  local algorithm, cost, amount, window = ARGV[at], ARGV[at + 2] + 0, ARGV[at + 3] + 0, ARGV[at + 4] + 0
  local stored = redis.call('GET', key)
  local fits, left, wait, value, expires

  local is_new = not stored and ARGV[at + 7] ~= '0'
  if is_new then
    -- A client that has another counter of the rule is known.
    local client = match(key, '^[^}]*}')
    for j = 1, #KEYS do
      if j ~= i and string.sub(KEYS[j], 1, #client) == client and redis.call('GET', KEYS[j]) then
        is_new = false
      end
    end
  end
  if is_new and ARGV[at + 7] == 'ask' then
    unmade = true
  elseif is_new then
    local rate, rule = ARGV[at + 7] + 0, match(key, '^[^{]*{[^:}]*')
    budgets, news = budgets or {}, news or {}
    local budget = budgets[rule]
    if not budget then
      local used, since = match(redis.call('GET', rule .. '}:new_keys') or '0 0', '^(%d+) (%d+)$')
      if not used then
        error('the value of ' .. rule .. '}:new_keys is not one of tollgate: remove it with DEL', 0)
      end
      used, since = used + 0, since + 0
      if since > now then since = now end
      local seconds = floor((now - since) / 1000000)
      used, since = used - seconds * rate, since + seconds * 1000000
      local refilled = floor((now - since) * rate / 1000000)
      if refilled >= used then
        used, since, refilled = 0, now, 0
      end
      budget = { used = used, since = since, left = 60 * rate - (used - refilled), rate = rate, new = 0 }
      budgets[rule] = budget
    end
    if budget.left > 0 then
      budget.left, news[i] = budget.left - 1, budget
    else
      key = rule .. '}:overflow' .. match(key, '}(.*)$')
      stored = redis.call('GET', key)
      shared = shared or {}
      shared[i] = key
    end
  end

  if algorithm == '2' then
    -- sliding_window: the current window, and the one before it. See src/limit/sliding_window.rs.
    local count, first, last, old, old_first, old_last = 0, 0, 0, 0, 0, 0
    if stored then
      count, first, last, old, old_first, old_last = match(stored, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
      if not count then
        error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
      end
      count, first, last, old, old_first, old_last = count + 0, first + 0, last + 0, old + 0, old_first + 0, old_last + 0
      -- After the clock went back, nothing lies in the future.
      if last > now then
        if first > now then first = now end
        if old_first > now then old_first = now end
        if old_last > now then old_last = now end
        last = now
      end
    end
    if now >= first + window then
      old, old_first, old_last = count, first, last
      count, first, last = 0, 0, 0
    end
    local fading = 0
    if now >= old_last + window then
      old, old_first, old_last = 0, 0, 0
    elseif old > 0 then
      local remains, length = old_last + window - now, old_last - old_first
      if remains >= length then
        fading = old
      else
        local quotient, rest = mul_div(remains, old, length)
        fading = rest > 0 and quotient + 1 or quotient
      end
    end
    fits = count + fading + cost <= amount
    if fits then
      if count == 0 then first = now end
      count, last = count + cost, now
    end
    -- When at most `target` requests count: then more is left, or this one fits.
    local target = fits and count + fading - 1 or amount - cost
    local span, from, to, keep = count, first, last, target
    if target >= count then
      span, from, to, keep = old, old_first, old_last, target - count
    end
    if keep < 0 then
      wait = window
    else
      local length = to - from
      wait = to + window - floor(length / span) * keep - mul_div(keep, length % span, span) - now
    end
    left = amount - count - fading
    value = format('%d %d %d %d %d %d', count, first, last, old, old_first, old_last)
    expires = (last > old_last and last or old_last) + window

  elseif algorithm == '1' then
    -- fixed_window. See src/limit/fixed_window.rs.
    local count, start = 0, now
    if stored then
      count, start = match(stored, '^(%d+) (%d+)$')
      if not count then
        error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
      end
      count, start = count + 0, start + 0
      if now >= start + window then
        count, start = 0, now
      elseif start > now then
        start = now
      end
    end
    fits = count + cost <= amount
    if fits then
      count = count + cost
    end
    left = amount - count
    expires = start + window
    wait = cost > amount and window or expires - now
    value = format('%d %d', count, start)

  elseif algorithm == '6' then
    -- fixed_window in windows of a calendar. See src/limit/fixed_window.rs.
    local begin, second, third, last = match(ARGV[at + 5], '^(%d+) (%d+) (%d+) (%d+)$')
    begin, second, third, last = begin + 0, second + 0, third + 0, last + 0
    if now < begin or now >= last then
      return { 2, now }
    elseif now >= third then
      begin, expires = third, last
    elseif now >= second then
      begin, expires = second, third
    else
      expires = second
    end
    local count, start = 0, begin
    if stored then
      count, start = match(stored, '^(%d+) (%d+)$')
      if not count then
        error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
      end
      count = start + 0 < begin and 0 or count + 0
    end
    fits = count + cost <= amount
    if fits then
      count = count + cost
    end
    left = amount - count
    wait = cost > amount and window or expires - now
    value = format('%d %d', count, begin)

  elseif algorithm == '4' then
    -- sliding_log: "total last", then "time cost" of each request. See src/limit/sliding_log.rs.
    -- Only what has left the window and what stands in the way is read; the rest is copied as it is.
    local total, last, at, length = 0, 0, 1, stored and #stored or 0
    local entry, its_cost, after
    if stored then
      total, last, at = match(stored, '^(%d+) (%d+)()')
      if not total then
        error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
      end
      total, last = total + 0, last + 0
      if last > now then
        -- The clock went back. Nothing lies in the future.
        stored = string.gsub(string.sub(stored, at), ' (%d+) (%d+)', function(time, cost)
          if time + 0 > now then
            return format(' %d %s', now, cost)
          end
        end)
        last, at, length = now, 1, #stored
      end
      if last + window <= now then
        total, at = 0, length + 1
      end
      while at <= length do
        entry, its_cost, after = match(stored, '^ (%d+) (%d+)()', at)
        if not entry then
          error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
        end
        if entry + window > now then
          break
        end
        total, at, entry = total - its_cost, after, nil
      end
      -- What is left over from a total belongs to no request.
      if total < 0 or (total > 0) ~= (at <= length) then
        error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
      end
    end
    fits = total + cost <= amount
    if cost > amount then
      wait = window
    elseif fits then
      wait = (entry or now) + window - now
    else
      local excess = total + cost - amount - its_cost
      while excess > 0 do
        entry, its_cost, after = match(stored, '^ (%d+) (%d+)()', after)
        if not entry then
          error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
        end
        excess = excess - its_cost
      end
      wait = entry + window - now
    end
    if fits then
      total = total + cost
      value = format('%d %d%s %d %d', total, now, stored and string.sub(stored, at) or '', now, cost)
      expires = now + window
    end
    left = amount - total

  elseif algorithm == '5' then
    -- A ban. See src/limit/ban.rs.
    local denials, since, till, duration, is_due, is_cut = 0, now, 0, ARGV[at + 5] + 0, false, false
    if stored then
      denials, since, till = match(stored, '^(%d+) (%d+) (%d+)$')
      if not denials then
        error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
      end
      denials, since, till = denials + 0, since + 0, till + 0
      if since > now then since = now end
      if till > since + duration then
        till, is_cut = since + duration, true
      end
    end
    if till > now then
      fits, left, wait, expires, is_due = false, 0, till - now, till, is_cut
    else
      if denials == 0 or now >= since + window then
        denials, since = 0, now
      end
      is_due = ARGV[at + 6] == '1'
      for j = i - cost, i - 1 do
        -- Nobody is banned for what others do.
        if answer[3 * j] == 0 and not (shared and shared[j]) then is_due = true end
      end
      if is_due then denials = denials + 1 end
      if is_due and denials >= amount then
        fits, left, wait = false, 1, duration
        denials, since, till, expires = 0, now, now + duration, now + duration
      else
        fits, left, wait = true, amount - denials, 0
        if left < 1 then left = 1 end
        till, expires = 0, since + window
      end
    end
    if is_due then
      value = format('%d %d %d', denials, since, till)
      bans = bans or {}
      bans[#bans + 1] = i
    end

  elseif algorithm == '3' then
    -- token_bucket. See src/limit/token_bucket.rs.
    local tokens, period = ARGV[at + 5] + 0, ARGV[at + 6] + 0
    local used, since, refilled = 0, now, 0
    if stored then
      used, since = match(stored, '^(%d+) (%d+)$')
      if not used then
        error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
      end
      used, since = used + 0, since + 0
      if since > now then since = now end
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
    end
    -- How long it takes until `count` tokens have flowed back.
    local function time_for(count)
      local periods = floor(count / tokens)
      if periods * period >= 70368744177664 then -- 2^46, as MAX_WAIT_US
        return 70368744177664
      end
      local quotient, rest = mul_div(count % tokens, period, tokens)
      return periods * period + (rest > 0 and quotient + 1 or quotient)
    end
    fits = used - refilled + cost <= amount
    if fits then
      used = used + cost
      wait = since + time_for(refilled + 1) - now
    elseif cost > amount then
      wait = window
    else
      wait = since + time_for(used + cost - amount) - now
    end
    left = amount - (used - refilled)
    value = format('%d %d', used, since)
    expires = since + time_for(used)

  else
    error('this script knows no algorithm ' .. algorithm, 0)
  end

  if fits then
    answer[3 * i] = 1
  else
    answer[3 * i] = 0
    denied = denied or {}
    denied[ARGV[at + 1]] = true
  end
  answer[3 * i + 1], answer[3 * i + 2] = left > 0 and left or 0, wait
  values[i], expiries[i] = value, expires
end

if shared then
  for i = 1, #KEYS do
    if shared[i] then
      answer[#answer + 1] = i
    end
  end
end
if unmade and not (denied and denied['0']) and ARGV[8 * #KEYS + 1] ~= 'peek' then
  return { 3, now }
end
if bans then
  for _, i in ipairs(bans) do
    redis.call('SET', KEYS[i], values[i], 'PX', format('%d', math.ceil((expiries[i] - now) / 1000)))
    values[i] = nil
  end
end
if denied and denied['0'] then
  answer[1] = 0
  return answer
end
if ARGV[8 * #KEYS + 1] == 'peek' then
  return answer
end
for i = 1, #KEYS do
  if values[i] and not (denied and denied[ARGV[8 * i - 6]]) then
    redis.call('SET', shared and shared[i] or KEYS[i], values[i], 'PX', format('%d', math.ceil((expiries[i] - now) / 1000)))
    if news and news[i] then
      news[i].new = news[i].new + 1
    end
  end
end
if budgets then
  for rule, budget in pairs(budgets) do
    if budget.new > 0 then
      local used = budget.used + budget.new
      local full = budget.since + math.ceil(used * 1000000 / budget.rate)
      redis.call('SET', rule .. '}:new_keys', format('%d %d', used, budget.since), 'PX', format('%d', math.ceil((full - now) / 1000)))
    end
  end
end
return answer
