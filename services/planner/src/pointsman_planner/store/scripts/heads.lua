-- SPDX-License-Identifier: Apache-2.0
-- KEYS: probe, log, then hash and index of each area. ARGV: epoch of areas to be made.
-- Writes the probe, so that a store that refuses writes is noticed. Gives epoch and version of each area.
redis.call('SET', KEYS[1], ARGV[1], 'PX', 60000)
remove_foreign(KEYS[2], 'stream')
local now, heads = now_ms(), {}
for i = 3, #KEYS, 2 do
  local epoch, version = made_head(KEYS[i], KEYS[i + 1], ARGV[1])
  sweep(KEYS[i], KEYS[i + 1], now, 500)
  heads[#heads + 1] = {epoch, version}
end
return heads
