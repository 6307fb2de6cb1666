-- SPDX-License-Identifier: Apache-2.0
-- KEYS: hash of the area. ARGV: keys of records.
-- Gives epoch, version and a list of key, version, milliseconds left (0 = never ends), value. Writes nothing.
local epoch, version = head_of(KEYS[1])
if not epoch then return {'', 0, {}} end
local now, found = now_ms(), {}
for _, key in ipairs(ARGV) do
  local written, ends, value = parsed(redis.call('HGET', KEYS[1], '/' .. key))
  if written and (ends == 0 or ends > now) then
    found[#found + 1] = {key, written, ends == 0 and 0 or ends - now, value}
  end
end
return {epoch, version, found}
