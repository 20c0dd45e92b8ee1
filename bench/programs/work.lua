-- SPDX-License-Identifier: Apache-2.0
-- Numbers, tables, strings and closures for a tracing JIT.
local n = tonumber(arg[1])
local function sieve(size)
  local flags, count = {}, 0
  for i = 2, size do flags[i] = true end
  for i = 2, size do
    if flags[i] then
      count = count + 1
      for j = i * i, size, i do flags[j] = false end
    end
  end
  return count
end
local function matrix(size)
  local function make(f)
    local m = {}
    for i = 1, size do
      m[i] = {}
      for j = 1, size do m[i][j] = f(i, j) end
    end
    return m
  end
  local a, b, trace = make(function(i, j) return i - j end), make(function(i, j) return i + j end), 0
  for i = 1, size do
    for j = 1, size do
      local s = 0
      for k = 1, size do s = s + a[i][k] * b[k][j] end
      if i == j then trace = trace + s end
    end
  end
  return trace
end
local function orbit(steps)
  local x, y, vx, vy = 1.0, 0.0, 0.0, 1.0
  for _ = 1, steps do
    local r2 = x * x + y * y
    local r3 = r2 * math.sqrt(r2)
    vx, vy = vx - 0.001 * x / r3, vy - 0.001 * y / r3
    x, y = x + 0.001 * vx, y + 0.001 * vy
  end
  return x + y
end
local function strings(count)
  local seen, distinct, seed = {}, 0, 7
  for i = 1, count do
    seed = (seed * 16807) % 2147483647
    local key = "k" .. (seed % 5003)
    if not seen[key] then seen[key], distinct = 0, distinct + 1 end
    seen[key] = seen[key] + #key
  end
  return distinct
end
print(sieve(20000 * n), matrix(180), string.format("%.9f", orbit(60000 * n)), strings(6000 * n))
local total = 0
for i = 1, 30 do
  local f = loadstring("return function(x) local s = 0 for i = 1, x do s = s + i % " .. (i + 1) .. " end return s end")()
  total = total + f(6000 * n)
end
print(total)
