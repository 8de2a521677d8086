-- POSTs bodies and prints what happened as one line of JSON.
-- usage: wrk ... -s wrk_post.lua URL -- WEIGHT:FILE [WEIGHT:FILE ...]
-- Bodies take turns by weight, in an order that every run repeats.

local function read(path)
  local file = assert(io.open(path, "rb"))
  local body = file:read("*a")
  file:close()
  return body
end

function init(args)
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  local schedule, weights = {}, {}
  for i = 1, #args do
    local weight, path = args[i]:match("^(%d+):(.+)$")
    weights[#weights + 1] = { weight = tonumber(weight), body = read(path), owed = 0 }
  end
  wrk.body = weights[1].body
  if #weights == 1 then
    return -- wrk builds the request once and repeats it
  end
  local total = 0
  for _, entry in ipairs(weights) do
    entry.request = wrk.format(nil, nil, nil, entry.body)
    total = total + entry.weight
  end
  for turn = 1, total do
    local best = nil
    for _, entry in ipairs(weights) do
      entry.owed = entry.owed + entry.weight
      if best == nil or entry.owed > best.owed then best = entry end
    end
    best.owed = best.owed - total
    schedule[turn] = best.request
  end
  local turn = 0
  request = function()
    turn = turn % total + 1
    return schedule[turn]
  end
end

function done(summary, latency, _)
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "bad_status": %d, "socket_errors": %d}\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    summary.errors.status, summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  ))
end
