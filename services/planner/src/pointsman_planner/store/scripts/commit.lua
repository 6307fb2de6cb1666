-- SPDX-License-Identifier: Apache-2.0
-- KEYS: hash and index of the area, log.
-- ARGV: epoch of an area to be made, most records, 1 if the area evicts, longest log (0 = not told), version floor, then for each write
--   key, condition ("" = none, else a version, "0" = absent), milliseconds to live (0 = for ever), "=" .. value or "-".
-- Gives epoch, version, evicted keys, and for each write {kind} or {kind, version, milliseconds left, value}; kinds are those of OutcomeKind.
local WRITTEN, UNCHANGED, CONFLICT, FULL = 1, 2, 3, 4
local area, index, log = KEYS[1], KEYS[2], KEYS[3]
local epoch, version = made_head(area, index, ARGV[1])
local records_max, evicts, log_max = tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
local now = now_ms()
local written_version = math.max(version, tonumber(ARGV[5])) + 1
local outcomes, changed, evicted = {}, {}, {}

sweep(area, index, now, 200)
local count = redis.call('HLEN', area) - 2

local function remove(key)
  count = count - redis.call('HDEL', area, '/' .. key)
  redis.call('ZREM', index, key)
  changed[#changed + 1] = key
end

-- Whether one more record has its place.
local function make_room()
  if count < records_max then return true end
  local first = evicts and redis.call('ZRANGE', index, 0, 0)[1]
  if not first then return false end
  remove(first)
  evicted[#evicted + 1] = first
  return count < records_max
end

local function apply(key, condition, lives, operation)
  local stored = redis.call('HGET', area, '/' .. key)
  local at, ends, value = parsed(stored)
  if at and ends > 0 and ends <= now then
    at = nil
    remove(key)
    stored = false
  end
  if condition ~= '' and tonumber(condition) ~= (at or 0) then
    if not at then return {CONFLICT} end
    return {CONFLICT, at, ends == 0 and 0 or ends - now, value}
  end
  if operation == '-' then
    if not stored then return {UNCHANGED} end
    remove(key)
    return {WRITTEN}
  end
  local new = string.sub(operation, 2)
  local is_same = at and value == new
  if not is_same and not stored then
    if not make_room() then return {FULL} end
    count = count + 1
  end
  local new_at, new_ends = is_same and at or written_version, lives > 0 and now + lives or 0
  redis.call('HSET', area, '/' .. key, string.format('%.0f %.0f ', new_at, new_ends) .. new)
  if lives > 0 then
    redis.call('ZADD', index, new_ends, key)
  else
    redis.call('ZREM', index, key)
  end
  if is_same then return {UNCHANGED, new_at, lives, new} end
  changed[#changed + 1] = key
  return {WRITTEN, new_at, lives, new}
end

-- A log that takes no entry (somebody gave it the last id there is) is begun anew; readers see the gap.
local function tell(keys)
  remove_foreign(log, 'stream')
  local entry = {'XADD', log, 'MAXLEN', '~', log_max, '*', 'area', area, 'epoch', epoch, 'version', string.format('%.0f', version), 'keys', keys}
  local answer = redis.pcall(unpack(entry))
  if type(answer) == 'table' and answer.err then
    redis.call('DEL', log)
    redis.call(unpack(entry))
  end
end

for i = 6, #ARGV, 4 do
  outcomes[#outcomes + 1] = apply(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3])
end

if #changed > 0 then
  version = written_version
  redis.call('HSET', area, ':version', string.format('%.0f', version))
  if log_max > 0 then tell(cjson.encode(changed)) end
end
return {epoch, version, evicted, outcomes}
