-- SPDX-License-Identifier: Apache-2.0
-- What all scripts share. An area is a hash: ":epoch", ":version", and "/key" -> "version ends_at_ms value" for each record.
-- Beside it stands an index of the records that end, by the moment at which they do.
-- Everything under our prefix is ours: a key of another type, or a head that makes no sense, is removed and made anew.

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function is_kind(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == kind or found == 'none'
end

local function remove_foreign(key, kind)
  if not is_kind(key, kind) then redis.call('DEL', key) end
end

-- Epoch and version of an area, or nil.
local function head_of(area)
  if not is_kind(area, 'hash') then return nil end
  local found = redis.call('HMGET', area, ':epoch', ':version')
  local version = found[2] and tonumber(found[2])
  if not found[1] or not version or version ~= math.floor(version) or version < 1 or version > 9007199254740000 then return nil end
  return found[1], version
end

-- The same, made if need be. A new area begins at the present time in microseconds: its versions are above all former ones.
local function made_head(area, index, epoch)
  remove_foreign(index, 'zset')
  local found, version = head_of(area)
  if found then return found, version end
  redis.call('DEL', area, index)
  local time = redis.call('TIME')
  version = tonumber(time[1]) * 1000000 + tonumber(time[2])
  redis.call('HSET', area, ':epoch', epoch, ':version', string.format('%.0f', version))
  return epoch, version
end

-- A stored value's version, end (0 = none) and payload; nil when it is not one of ours (none of ours is as large as this).
local function parsed(stored)
  if not stored or #stored > 300000 then return nil end
  local version, ends, value = string.match(stored, '^(%d+) (%d+) (.*)$')
  version, ends = tonumber(version), tonumber(ends)
  if not version or version > 9007199254740000 or ends > 9007199254740000 then return nil end
  return version, ends, value
end

-- Removes records that ended, at most `limit`.
local function sweep(area, index, now, limit)
  local ended = redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, limit)
  for _, key in ipairs(ended) do
    local _, ends = parsed(redis.call('HGET', area, '/' .. key))
    if ends and ends > 0 and ends <= now then redis.call('HDEL', area, '/' .. key) end
    if ends and ends > now then
      redis.call('ZADD', index, ends, key)
    else
      redis.call('ZREM', index, key)
    end
  end
end
