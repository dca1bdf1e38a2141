-- Asks tollgate about each request.
--
--   http-request lua.tollgate URL TIMEOUT_MS open|closed
--
-- 200 admits. Any other answer below 500 is a denial, and goes to the client. Without an answer, or with
-- a 5xx, `open` lets the request through and `closed` answers 503.

-- Headers of the client that rules may use.
local FORWARDED = { "x-api-key" }

-- Headers of tollgate's answer for the client. On an admitted request, haproxy.cfg adds the first five.
local LIMITS = { "ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset" }
local DENIAL = { "retry-after", "content-type", "cache-control", "location" }

local function ask(txn, url, timeout_ms)
  local sent = txn.http:req_get_headers()
  local headers = {
    ["x-forwarded-method"] = { txn.f:method() },
    ["x-forwarded-uri"] = { txn.f:url() },
    ["x-forwarded-host"] = { txn.f:req_fhdr("host") or "" },
    ["x-forwarded-proto"] = { txn.f:ssl_fc() == 1 and "https" or "http" },
    ["x-real-ip"] = { txn.f:src() },
  }
  for _, name in ipairs(FORWARDED) do
    if sent[name] then headers[name] = { sent[name][0] } end
  end
  return core.httpclient():get { url = url, headers = headers, timeout = timeout_ms }
end

local function first(answer, name)
  local lines = answer.headers and answer.headers[name]
  return lines and lines[0]
end

core.register_action("tollgate", { "http-req" }, function(txn, url, timeout_ms, on_error)
  local answered, answer = pcall(ask, txn, url, tonumber(timeout_ms))
  if not answered then core.Warning("tollgate was not asked: " .. tostring(answer)) end
  local status = answered and answer and answer.status or 0
  txn:set_var("txn.tollgate_status", status)

  if status == 200 then
    for _, name in ipairs(LIMITS) do
      local value = first(answer, name)
      if value then txn:set_var("txn.tollgate_" .. name:gsub("-", "_"), value) end
    end
    return
  end

  if status < 200 or status >= 500 then
    if on_error == "open" then return end
    local reply = txn:reply { status = 503, reason = "Service Unavailable" }
    reply:add_header("content-type", "application/problem+json")
    reply:set_body('{"title":"Service Unavailable","status":503}\n')
    txn:done(reply)
    return
  end

  local reply = txn:reply { status = status }
  for _, names in ipairs { LIMITS, DENIAL } do
    for _, name in ipairs(names) do
      local value = first(answer, name)
      if value then reply:add_header(name, value) end
    end
  end
  if txn.f:method() ~= "HEAD" then reply:set_body(answer.body or "") end
  txn:done(reply)
end, 3)
