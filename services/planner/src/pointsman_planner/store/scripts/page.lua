-- SPDX-License-Identifier: Apache-2.0
-- KEYS: hash and index of the area. ARGV: cursor.
-- As read.lua, for the next records in the hash's own order, and the next cursor, and how many values are not ours.
local epoch, version = head_of(KEYS[1])
if not epoch then return {'', 0, {}, '0', 0} end
local now, found, foreign = now_ms(), {}, 0
local scanned = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 500)
local fields = scanned[2]
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 1) == '/' then
    local written, ends, value = parsed(fields[i + 1])
    if not written then
      foreign = foreign + 1
    elseif ends == 0 or ends > now then
      found[#found + 1] = {string.sub(fields[i], 2), written, ends == 0 and 0 or ends - now, value}
    end
  end
end
return {epoch, version, found, scanned[1], foreign}
