"""What has to happen in Redis in one step, as Lua scripts that any Redis from 5.0 runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1

from rsws.streams.redis_connection import pack


@dataclass(frozen=True)
class Script:
    """One script; Redis knows it by its SHA-1 once it was loaded."""

    text: bytes

    @property
    def load(self) -> bytes:
        """The command that makes it known, to be sent on each new connection."""
        return pack(b"SCRIPT", b"LOAD", self.text)

    def call(self, *keys: bytes, arguments: tuple[bytes, ...] = ()) -> bytes:
        """The command that runs it; a Redis that lost it answers NOSCRIPT, and has done nothing."""
        return pack(b"EVALSHA", self._sha1, b"%d" % len(keys), *keys, *arguments)

    @cached_property
    def _sha1(self) -> bytes:
        return sha1(self.text).hexdigest().encode()

    def call_in_full(self, *keys: bytes, arguments: tuple[bytes, ...] = ()) -> bytes:
        """The same with the whole text, which can't be missing and is known again afterwards."""
        return pack(b"EVAL", self.text, b"%d" % len(keys), *keys, *arguments)


LOOK = Script(b"""
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
local first, last, length = false, '0-0', 0
if info.err then
  if not string.find(info.err, 'no such key', 1, true) then return info end
else
  for index = 1, #info, 2 do
    if info[index] == 'length' then length = info[index + 1] end
    if info[index] == 'last-generated-id' then last = info[index + 1] end
    if info[index] == 'first-entry' and info[index + 1] then first = info[index + 1][1] end
  end
end
if not ARGV[1] then return {first, last, length} end
return {first, last, length, redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])}
""")
"""The ends of the stream KEYS[1]: its first entry's id (nil where there is none), the last id it generated, its length.

XINFO alone would send the first and the last entry along, a megabyte each perhaps. With arguments, the entries from
ARGV[1] on too, at most ARGV[2], as of the same moment.
"""

STEP_BACK = Script(b"""
local entries = redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', ARGV[2])
if #entries == 0 then return {0, false} end
return {#entries, entries[#entries][1]}
""")
"""How many entries of the stream KEYS[1] there are up to ARGV[1], at most ARGV[2], and the id of the first of them.

XREVRANGE alone would send the bodies along.
"""

STORE_ONCE = Script(b"""
local seen = redis.call('GET', KEYS[2])
if seen then
  local id, digest = string.match(seen, '^(%S+) (%S+)$')
  return {id, digest, 1}
end
redis.call('SET', KEYS[2], 'taken', 'PX', ARGV[4])
local id = redis.pcall('XADD', KEYS[1], '*', ARGV[1], ARGV[2])
if type(id) == 'table' then
  redis.call('DEL', KEYS[2])
  return id
end
redis.call('SET', KEYS[2], id .. ' ' .. ARGV[3], 'PX', ARGV[4])
return {id, ARGV[3], 0}
""")
"""Add field ARGV[1] with value ARGV[2] to the stream KEYS[1], unless KEYS[2] says it was done in the last ARGV[4] ms.

Returns the entry's id, the digest it was stored with (ARGV[3]), and whether it was there before. Two commands would not
do: a crash between them would lose a message that looks done. The name is taken first, so that a Redis that refuses it
(out of memory, no right to that key) has stored nothing.
"""
