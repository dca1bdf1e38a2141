-- Decides about checks and charges them, many in one call: of each check every limit of every matching
-- rule, all or nothing.
--
--   ARGV[c]  what check c asks: for each of its limits, in binary (`LAYOUT` below), its algorithm, group,
--            cost, amount (of a bucket: its burst), window (us), tokens, period (us), and how many
--            counters of its rule may be new per second (0: any number). One more byte at the end says
--            that limits are not charged, whatever fits. Or four more (u32): so many equal checks, one
--            after the other, all of whose limits are in group 0. If there are fewer of ARGV than checks,
--            the rest asks as the last: each argument costs Redis time.
--   KEYS     the counters of these limits: those of the first check, then those of the second, and so on
--
-- The algorithm is one of 1 fixed_window, 2 sliding_window, 3 token_bucket, 4 sliding_log,
-- 5 for a ban, and 6 for a fixed_window that follows the calendar.
--
--   A bucket gains `tokens` per `period`, a fraction in lowest terms.
--   A window of the calendar has the first two edges of three windows for tokens and period, and the other
--   two after all else (us).
--   A ban has: 5, group, how many entries before it are its limits, how many denials begin it,
--   within what time (us), how long it lasts (us), 1 if a limit that is not among KEYS did not fit, 0.
--
--   Answer: { now (us), then for each check: its verdict, and for each limit remaining (-1 - remaining if it
--           does not fit), wait (us) }. `remaining` of a ban is 1 if it begins now. Verdicts are
--           0 denied, 1 admitted;
--           4 denied, 5 admitted, and after the limits: how many of them were charged to their rule's
--             overflow counter, and the i of each;
--           2 if `now` is outside the edges of a calendar window. Nothing was charged, and nothing follows;
--           3 if a counter would be new, and must be asked for. Nothing was charged, and nothing follows;
--           an error, which nothing follows.
--           About equal checks: how many have the answer that follows, that of the last of them; and
--           the same again until all have one. Of those before it more is left, by the cost of each.
--   Without an error it is one text of numbers, with 8 bytes for each (signed, little-endian), and no list.
--
-- Checks are decided in their order, as if each came in a call of its own at the same time: each sees what
-- those before it have charged. But each key is read once, when it is first needed, and written once, at
-- the end. A value that is not one of tollgate is an error of the checks that need it. If a value cannot
-- be written, that is an error of the checks that charged it, and of those that saw it charged.
--
-- Group 0 is enforced: if one of its limits does not fit, nothing is written at all. Every other
-- group is a shadow rule: if one of its limits does not fit, that group alone is not written. Bans
-- count denials, and are written in any case.
--
-- The counters of a client that has none of its rule yet take from the rule's budget of new counters,
-- a bucket of as many per second and a minute's worth at most. If that is empty, the rule's overflow counter is
-- charged in its place. Their keys follow from the rule's: see src/counter_key.rs. In a cluster they
-- are in other slots, so there the caller keeps the budget: with `ASK` in its place, nothing is
-- written if a counter would be new.
--
-- The arithmetic is that of src/limit/*.rs, line by line, and is explained there. A property test
-- compares the two. Numbers here are doubles, exact up to 2^53. Costs are at least 1. `%d` prints
-- through a C long, so Redis must be a 64-bit build.
--
-- Redis does nothing else while this script runs, and often it runs for one check. Making a function or a
-- table costs a tenth of a check. So algorithms are written inline, and what is rarely needed is made
-- when it is.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- What is known of each key that was read: { its text (false if there is none), its name, when it expires
-- and the first check that wrote it (nil as long as none has), the text and the expiry that the check being
-- decided would give it }. `users` are checks that need it although it is not among their KEYS.
-- Here are those that must be written.
local written = {}
-- The same by name. The keys of one check differ, so it needs none: of each it says at least 49 bytes.
local known = (#ARGV > 1 or #KEYS * 49 > #ARGV[1]) and {} or nil
local answer = { now, 1, 0, 0 }
-- The check that is being decided.
local current = 1

-- Decides about the checks from `first` on. Before that one are `size` numbers of the answer, and `base` KEYS.
local function decide(now, written, known, answer, first, size, base)
  local match, format, floor = string.match, string.format, math.floor
  local KEYS, ARGV, call = KEYS, ARGV, redis.call

  -- floor(a * b / c) and its remainder, exact for a <= c < 2^45 and b < 2^49.
  -- This is long division by digits of 7 bits.
  local function mul_div(a, b, c)
    local product = a * b
    if product < 9007199254740992 then -- 2^53
      local rest = product % c
      return (product - rest) / c, rest
    end
    local floor, quotient, rest = math.floor, 0, 0
    local digit = 4398046511104 -- 2^42
    while digit >= 1 do
      local sum = rest * 128 + a * (floor(b / digit) % 128)
      quotient, rest = quotient * 128 + floor(sum / c), sum % c
      digit = digit / 128
    end
    return quotient, rest
  end

  -- Made when it is needed: how long a bucket takes to gain tokens, and the text of `now` after a space.
  local time_for, clock
  -- The entry of each limit of a check.
  local charged = { false }
  local keys = #KEYS
  -- What checks ask, decoded. Many ask the same.
  local plans, asked, plan, limits, peeks = #ARGV > 1 and {}, nil, nil, nil, nil
  -- Of equal checks: how many are not decided, and how many are tried at once. They fit one after the
  -- other if the sum of their costs fits.
  local c, undecided, copies = first, 0, 1

  while base < keys do
    current = c
    answer[size + 1] = 1
    local asks = ARGV[c] or asked or ARGV[#ARGV]
    if asks ~= asked then
      asked = asks
      plan = plans and plans[asked]
      if not plan then
        local at, count, length, unpack = 1, 0, #asked, struct.unpack
        plan = { false }
        repeat
          local limit = { unpack('<BI4I8I8I8I8I8I4', asked, at) } -- LAYOUT
          at = limit[9]
          if limit[1] == 6 then
            limit[9], limit[10], at = unpack('<I8I8', asked, at)
          end
          count = count + 1
          plan[count] = limit
        until at >= length - 3
        if at == length then
          plan.peeks = true
        elseif at < length then
          local most = unpack('<I4', asked, at)
          plan.times = most
          for i = 1, count do
            local fitting = floor(plan[i][4] / plan[i][3])
            if fitting < most then most = fitting > 1 and fitting or 1 end
          end
          plan.most = most
        end
        if plans then plans[asked] = plan end
      end
      limits, peeks = #plan, plan.peeks
    end
    local times = plan.times
    if times then
      known = known or {}
      if undecided == 0 then undecided, copies = times, plan.most end
      size = size + 1
      answer[size + 1] = 1
    end
    local counted = size

    -- Whether a limit of group 0 does not fit, and the other groups of which one does not.
    local denied, shadows, bans
    -- Of new counters: the budgets by their keys, the budget of limit i, the limits that are charged to their
    -- overflow counter (as a list, and each at minus its i), and whether one must be asked for.
    local budgets, news, shared, unmade, is_outside

    for i = 1, limits do
      local key, limit = KEYS[base + i], plan[i]
      local algorithm, cost, amount, window = limit[1], limit[3] * copies, limit[4], limit[5]
      local entry = known and known[key]
      if not entry then
        entry = { call('GET', key), key, nil, nil, nil, nil }
        if known then known[key] = entry end
      end
      local stored = entry[1]
      local fits, left, wait, value, expires

      if not stored and limit[8] > 0 then
        local function read(key)
          known = known or {}
          local entry = known[key]
          if not entry then
            entry = { call('GET', key), key, nil, nil, nil, nil }
            known[key] = entry
          end
          entry.users = entry.users or {}
          entry.users[c] = true
          return entry
        end
        -- A client that has another counter of the rule is known.
        local client, is_new = match(key, '^[^}]*}'), true
        for j = base + 1, base + limits do
          if j ~= base + i and string.sub(KEYS[j], 1, #client) == client and read(KEYS[j])[1] then
            is_new = false
          end
        end
        if is_new and limit[8] == 4294967295 then -- ASK
          unmade = true
        elseif is_new then
          local rate, rule = limit[8], match(key, '^[^{]*{[^:}]*')
          budgets, news = budgets or {}, news or {}
          local budget = budgets[rule]
          if not budget then
            local entry = read(rule .. '}:new_keys')
            local used, since = match(entry[1] or '0 0', '^(%d+) (%d+)$')
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
            budget = { entry = entry, used = used, since = since, left = 60 * rate - (used - refilled), rate = rate, new = 0 }
            budgets[rule] = budget
          end
          if budget.left > 0 then
            budget.left, news[i] = budget.left - 1, budget
          else
            key = rule .. '}:overflow' .. match(key, '}(.*)$')
            entry = read(key)
            stored = entry[1]
            shared = shared or {}
            shared[#shared + 1], shared[-i] = i, true
          end
        end
      end

      if algorithm == 2 then
        -- sliding_window: the current window, and the one before it. See src/limit/sliding_window.rs.
        -- `since` is the text of `first`, and `before` that of the window before, as long as they are what they
        -- were: printing is slow. Often the window before is empty, and there is no `old`.
        local count, first, last, old, old_first, old_last, since, before
        clock = clock or format(' %d', now)
        if stored then
          count, since, last, before = match(stored, '^(%-?%d+)( %d+) (%d+)( .+)$')
          if not count then
            error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
          end
          count = count + 0
          first = since + 0
          last = last + 0
          if before ~= ' 0 0 0' then
            old, old_first, old_last = match(before, '^ (%d+) (%d+) (%d+)$')
            if not old then
              error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
            end
            old, old_first, old_last = old + 0, old_first + 0, old_last + 0
          end
          -- After the clock went back, nothing lies in the future.
          if last > now then
            if first > now then first, since = now, clock end
            if old then
              if old_first > now then old_first = now end
              if old_last > now then old_last = now end
              before = nil
            end
            last = now
          end
        else
          count, first, last, before = 0, 0, 0, ' 0 0 0'
        end
        if now >= first + window then
          old, old_first, old_last, before = count > 0 and count or 0, first, last, nil
          count, first, last = 0, 0, 0
        end
        local fading = 0
        if old then
          if now >= old_last + window then
            old, old_first, old_last, before = 0, 0, 0, ' 0 0 0'
          elseif old > 0 then
            local remains, length = old_last + window - now, old_last - old_first
            if remains >= length then
              fading = old
            else
              local quotient, rest = mul_div(remains, old, length)
              fading = rest > 0 and quotient + 1 or quotient
            end
          end
        end
        fits = count + fading + cost <= amount
        local keep = amount - cost
        if fits then
          if count <= 0 and count + cost > 0 then first, since = now, clock end
          count = count + cost
          last = now
          before = before or format(' %d %d %d', old, old_first, old_last)
          value = format('%d', count) .. since .. clock .. before
          expires = (old and old_last > now and old_last or now) + window
          keep = count + fading - 1
        end
        left = amount - count - fading
        -- When at most `keep` requests count: then more is left, or this one fits. From here on, the window
        -- that it depends on is the current one.
        if keep >= count then
          keep = keep - count
          count, first, last = old, old_first, old_last
        end
        if keep < 0 then
          wait = fits and first + window - now or window
        else
          local length = last - first
          local product = length * keep
          if product < 9007199254740992 then -- 2^53
            wait = last + window - (product - product % count) / count - now
          else
            wait = last + window - floor(length / count) * keep - mul_div(keep, length % count, count) - now
          end
        end

      elseif algorithm == 1 then
        -- fixed_window. See src/limit/fixed_window.rs.
        local count, start, since = 0, now, nil
        if stored then
          count, since = match(stored, '^(%-?%d+)( %d+)$')
          if not count then
            error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
          end
          count = count + 0
          start = since + 0
          if now >= start + window then
            count, start, since = 0, now, nil
          elseif start > now then
            start, since = now, nil
          end
        end
        expires = start + window
        fits = count + cost <= amount
        if fits then
          count = count + cost
          value = since and format('%d', count) .. since or format('%d %d', count, start)
        end
        left = amount - count
        wait = (fits or cost <= amount) and expires - now or window

      elseif algorithm == 6 then
        -- fixed_window in windows of a calendar. See src/limit/fixed_window.rs.
        local begin, second, third, last = limit[6], limit[7], limit[9], limit[10]
        if now < begin or now >= last then
          is_outside = true
          break
        elseif now >= third then
          begin, expires = third, last
        elseif now >= second then
          begin, expires = second, third
        else
          expires = second
        end
        local count, start = 0, begin
        if stored then
          count, start = match(stored, '^(%-?%d+) (%d+)$')
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
        wait = (fits or cost <= amount) and expires - now or window
        value = format('%d %d', count, begin)

      elseif algorithm == 4 then
        -- sliding_log: "total last", then "time cost" of each request. See src/limit/sliding_log.rs.
        -- Only what has left the window and what stands in the way is read; the rest is copied as it is.
        local total, last, at, length = 0, 0, 1, stored and #stored or 0
        local entry, its_cost, after
        if stored then
          total, last, at = match(stored, '^(%-?%d+) (%d+)()')
          if not total then
            error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
          end
          total, last = total + 0, last + 0
          if last > now then
            -- The clock went back. Nothing lies in the future.
            stored = string.gsub(string.sub(stored, at), ' (%d+) (%-?%d+)', function(time, cost)
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
            entry, its_cost, after = match(stored, '^ (%d+) (%-?%d+)()', at)
            if not entry then
              error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
            end
            if entry + window > now then
              break
            end
            total, at, entry = total - its_cost, after, nil
          end
          -- What is left over from a total belongs to no request.
          if (total ~= 0) ~= (at <= length) then
            error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
          end
        end
        fits = total + cost <= amount
        if fits then
          wait = (entry or now) + window - now
        elseif cost > amount then
          wait = window
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
        if fits and total < 0 then
          -- What was granted is the only entry. What it does not pay begins the log.
          if after <= length then
            error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
          end
          total = total + cost
          if total < 0 then
            value, expires = format('%d %d %d %d', total, entry, entry, total), entry + window
          elseif total == 0 then
            value, expires = '0 0', now + window
          else
            local count = math.ceil(total / limit[3])
            value = format('%d %d %d %d', total, now, now, total - (count - 1) * limit[3])
            value = value .. string.rep(format(' %d %d', now, limit[3]), count - 1)
            wait, expires = window, now + window
          end
        elseif fits then
          total = total + cost
          value = format('%d %d%s %d %d', total, now, stored and string.sub(stored, at) or '', now, limit[3])
          if copies > 1 then
            value = value .. string.rep(format(' %d %d', now, limit[3]), copies - 1)
          end
          expires = now + window
        end
        left = amount - total

      elseif algorithm == 5 then
        -- A ban. See src/limit/ban.rs.
        local denials, since, till, duration, is_due, is_cut = 0, now, 0, limit[6], false, false
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
          is_due = limit[7] == 1
          for j = i - cost, i - 1 do
            -- Nobody is banned for what others do.
            if answer[size + 2 * j] < 0 and not (shared and shared[-j]) then is_due = true end
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

      elseif algorithm == 3 then
        -- token_bucket. See src/limit/token_bucket.rs.
        local tokens, period = limit[6], limit[7]
        local used, since, refilled = 0, now, 0
        if stored then
          used, since = match(stored, '^(%-?%d+) (%d+)$')
          if not used then
            error('the value of ' .. key .. ' is not a counter of tollgate: remove it with DEL', 0)
          end
          used, since = used + 0, since + 0
          if since > now then since = now end
          local periods = floor((now - since) / period)
          if periods * tokens >= used then
            if used >= 0 or now >= since + window then
              used, since = 0, now
            end
          else
            used, since = used - periods * tokens, since + periods * period
            refilled = mul_div(now - since, tokens, period)
            if refilled >= used then
              used, since, refilled = 0, now, 0
            end
          end
        end
        -- How long it takes until `count` tokens have flowed back.
        time_for = time_for or function(count, tokens, period)
          local part = count % tokens
          local periods = (count - part) / tokens
          if periods * period >= 70368744177664 then -- 2^46, as MAX_WAIT_US
            return 70368744177664
          end
          local quotient, rest = mul_div(part, period, tokens)
          return periods * period + (rest > 0 and quotient + 1 or quotient)
        end
        fits = used - refilled + cost <= amount
        if fits then
          if used < 0 and used + cost > 0 then since = now end
          used = used + cost
          if used > 0 then
            wait = since + time_for(refilled + 1, tokens, period) - now
            expires = since + time_for(used, tokens, period)
          else
            expires = since + window
            wait = expires - now
          end
          value = format('%d %d', used, since)
        elseif cost > amount then
          wait = window
        else
          wait = since + time_for(used + cost - amount, tokens, period) - now
        end
        left = amount - (used - refilled)

      else
        error('this script knows no algorithm ' .. algorithm, 0)
      end

      if left < 0 then left = 0 end
      if not fits then
        left = -1 - left
        if limit[2] == 0 then
          denied = true
        else
          shadows = shadows or {}
          shadows[limit[2]] = true
        end
      end
      local to = size + 2 * i
      answer[to] = left
      answer[to + 1] = wait
      charged[i] = entry
      entry[5] = value
      entry[6] = expires
    end

    if is_outside or (unmade and not denied and not peeks) then
      for place = #answer, size + 1, -1 do
        answer[place] = nil
      end
      answer[size + 1] = is_outside and 2 or 3
      size = size + 1
      if times then
        answer[counted], undecided = undecided, 0
      end
    elseif copies > 1 and (denied or (budgets and undecided == times)) then
      -- Try as many as fit; or one alone, if it may make a counter by which the client is known to the others.
      for i = 1, limits do
        local left = answer[size + 2 * i]
        if left < 0 then
          local most = floor((-1 - left) / plan[i][3])
          if most < copies then copies = most end
        end
      end
      if copies < 1 or not denied then copies = 1 end
      size = size - 1
    else
      if bans then
        for _, i in ipairs(bans) do
          local entry = charged[i]
          if not entry[3] then written[#written + 1], entry[4] = entry, c end
          entry[1], entry[3], entry[5] = entry[5], entry[6], nil
        end
      end
      if denied then
        answer[size + 1] = 0
      elseif not peeks then
        for i = 1, limits do
          local entry = charged[i]
          if entry[5] and not (shadows and shadows[plan[i][2]]) then
            if not entry[3] then written[#written + 1], entry[4] = entry, c end
            entry[1], entry[3] = entry[5], entry[6]
            if news and news[i] then
              news[i].new = news[i].new + 1
            end
          end
        end
        if budgets then
          for _, budget in pairs(budgets) do
            if budget.new > 0 then
              local used, entry = budget.used + budget.new, budget.entry
              if not entry[3] then written[#written + 1], entry[4] = entry, c end
              entry[1] = format('%d %d', used, budget.since)
              entry[3] = budget.since + math.ceil(used * 1000000 / budget.rate)
            end
          end
        end
      end
      size = size + 1 + 2 * limits
      if shared then
        answer[size - 2 * limits] = answer[size - 2 * limits] + 4
        answer[size + 1] = #shared
        for j, i in ipairs(shared) do
          answer[size + 1 + j] = i
        end
        size = size + 1 + #shared
      end
      if times then
        if denied then copies = undecided end
        answer[counted], undecided = copies, undecided - copies
        copies = budgets and math.min(undecided, plan.most) or 1
      end
    end
    if undecided == 0 then
      base, c, copies = base + limits, c + 1, 1
    end
  end
end

-- What is needed only after an error.
local function after_errors(answer)
  -- How many limits a check asks about, and how many equal checks it is if they are counted.
  local function limits_of(c)
    local count, at, asked = 0, 1, ARGV[c] or ARGV[#ARGV]
    while at < #asked - 3 do
      count, at = count + 1, at + (string.byte(asked, at) == 6 and 65 or 49)
    end
    return count, at < #asked and struct.unpack('<I4', asked, at) or nil
  end

  -- How much of the answer is about a check, from `at` on; and whether it is about limits.
  local function length_of(c, at)
    local limits, times = limits_of(c)
    local length, undecided, has_limits = 0, times or 1, false
    repeat
      local verdict, copies = answer[at + length], 1
      length = length + 1
      if type(verdict) ~= 'number' then
        return length, false
      elseif times then
        copies, verdict, length = verdict, answer[at + length], length + 1
      end
      if verdict ~= 2 and verdict ~= 3 then
        has_limits, length = true, length + 2 * limits
        if verdict >= 4 then
          length = length + 1 + answer[at + length]
        end
      end
      undecided = undecided - copies
    until undecided == 0
    return length, has_limits
  end

  -- An error as Redis says it: a code, and what is wrong. What is caught looks different in each version.
  local function failure_of(caught)
    local text = type(caught) == 'table' and caught.err or tostring(caught)
    text = string.match(text, '^@[^:]*: ?%d+: ?(.*)') or text
    text = string.match(text, '^%-(.*)') or text
    return { err = string.match(text, '^%u+ ') and text or 'ERR ' .. text }
  end

  return limits_of, length_of, failure_of
end

local first, size, base, failed = 1, 1, 0, false
while base < #KEYS do
  local is_done, caught = pcall(decide, now, written, known, answer, first, size, base)
  if is_done then
    break
  end
  -- One check failed. Those before it are decided, and those after it are still to be.
  local limits_of, length_of, failure_of = after_errors(answer)
  while first < current do
    local length = length_of(first, size + 1)
    size, base, first = size + length, base + limits_of(first), first + 1
  end
  for place = #answer, size + 1, -1 do
    answer[place] = nil
  end
  answer[size + 1], failed = failure_of(caught), true
  size, base, first = size + 1, base + limits_of(first), first + 1
end

local write, unwritten, expires, px = redis.pcall, nil, nil, nil
for e = 1, #written do
  local entry = written[e]
  -- Most expire at the same time. Redis prints a number that it is given slowly.
  if entry[3] ~= expires then
    expires = entry[3]
    px = string.format('%d', math.ceil((expires - now) / 1000))
  end
  local reply = write('SET', entry[2], entry[1], 'PX', px)
  if reply.err then
    unwritten = unwritten or {}
    unwritten[entry[2]], entry.failure = entry, reply
  end
end
if not unwritten then
  if failed then
    return answer
  end
  -- All are numbers. As one text they take a tenth of the time to read.
  local packed = ''
  for from = 1, #answer, 1000 do
    local to = math.min(#answer, from + 999)
    packed = packed .. struct.pack('<' .. string.rep('i8', to - from + 1), unpack(answer, from, to))
  end
  return packed
end

-- The checks that charged or saw what could not be written have an error for an answer.
local limits_of, length_of, failure_of = after_errors(answer)
local corrected, at, base, c = { now }, 2, 0, 0
while base < #KEYS do
  c = c + 1
  local failure
  for i = base + 1, base + limits_of(c) do
    local entry = unwritten[KEYS[i]]
    if entry and c >= entry[4] then
      failure = entry.failure
    end
  end
  for _, entry in pairs(unwritten) do
    if entry.users and entry.users[c] and c >= entry[4] then
      failure = entry.failure
    end
  end
  local length, has_limits = length_of(c, at)
  if failure and has_limits then
    corrected[#corrected + 1] = failure_of(failure)
  else
    for place = at, at + length - 1 do
      corrected[#corrected + 1] = answer[place]
    end
  end
  at, base = at + length, base + limits_of(c)
end
return corrected
