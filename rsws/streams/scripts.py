"""The Lua scripts for what Redis has to do in one step; any Redis from 6.0 runs them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1

from rsws.redis.connection import pack


@dataclass(frozen=True)
class Script:
    """A script, which Redis knows by its SHA-1 once it was loaded."""

    text: bytes

    @property
    def load(self) -> bytes:
        """The command that loads the script, to be sent on each new connection."""
        return pack(b"SCRIPT", b"LOAD", self.text)

    def call(self, *keys: bytes, arguments: tuple[bytes, ...] = ()) -> bytes:
        """Return the command that runs the script by its SHA-1; if it is not loaded, Redis only answers NOSCRIPT."""
        if len(keys) == 1 and not arguments:
            return self._call_for_key % (len(keys[0]), keys[0])
        return pack(b"EVALSHA", self._sha1, b"%d" % len(keys), *keys, *arguments)

    @cached_property
    def _call_for_key(self) -> bytes:
        """The command for one key and no arguments, to be filled in (``%``): each subscribe looks at a stream so."""
        return pack(b"EVALSHA", self._sha1, b"1", b"").removesuffix(b"$0\r\n\r\n") + b"$%d\r\n%b\r\n"

    @cached_property
    def _sha1(self) -> bytes:
        return sha1(self.text).hexdigest().encode()

    def call_in_full(self, *keys: bytes, arguments: tuple[bytes, ...] = ()) -> bytes:
        """Return the command that runs the script by its text, which also loads it again."""
        return pack(b"EVAL", self.text, b"%d" % len(keys), *keys, *arguments)


_LOOK = b"""
local function look(key)
  local info = redis.pcall('XINFO', 'STREAM', key)
  local first, last, length, bytes = false, '0-0', 0, 0
  if info.err then
    if not string.find(info.err, 'no such key', 1, true) then return info end
  else
    for index = 1, #info, 2 do
      local name, value = info[index], info[index + 1]
      if name == 'length' then length = value end
      if name == 'last-generated-id' then last = value end
      if value and (name == 'first-entry' or name == 'last-entry') then
        if name == 'first-entry' then first = value[1] end
        for _, text in ipairs(value[2]) do bytes = bytes + #text end
      end
    end
  end
  return {first, last, length, bytes}
end
"""

_WALK = b"""
local function walk(command, key, from, to, count, bytes, visit)
  local left, room, last, step = count, bytes, false, 1
  while left > 0 and room > 0 do
    step = math.min(left, 2 * step, 4)
    local asked = last and step + 1 or step
    local entries = redis.call(command, key, last or from, to, 'COUNT', asked)
    for index = last and 2 or 1, #entries do
      local entry = entries[index]
      left, last, room = left - 1, entry[1], room - visit(entry)
      if room <= 0 then return last, false end
    end
    if #entries < asked then return last, true end
  end
  return last, false
end
"""
"""A Lua function that visits up to ``count`` entries, until their size reaches ``bytes``.

It returns the id of the last entry visited, and whether there are no more. It reads at most four new entries at a time,
as they may be a megabyte each; more are hardly faster. Each step begins with the last entry of the one before, as an
exclusive start would need Redis 6.2.
"""

LOOK = Script(_LOOK + b"return look(KEYS[1])")
"""Returns the bounds of the stream KEYS[1]: its first entry's id (nil if it has none), the last id it generated, its
length, and the size in bytes of the two entries at its ends, which is what this look at it has cost.

XINFO alone would also send the first and the last entry, which may be a megabyte each.
"""

READ = Script(
    _LOOK
    + _WALK
    + b"""
local found, size, is_start, is_there, checksum, ends = {}, 0, ARGV[1] == '0-0', false, false, {}
local count = tonumber(ARGV[2]) + (is_start and 0 or 1)
local _, is_end = walk('XRANGE', KEYS[1], ARGV[1], '+', count, tonumber(ARGV[3]), function (entry)
  local fields, data, bytes, is_last = entry[2] or {}, false, 0, false
  for index = 1, #fields, 2 do
    if fields[index] == ARGV[4] then data = fields[index + 1] elseif fields[index] == 'end' then is_last = true end
    bytes = bytes + #fields[index] + #fields[index + 1]
  end
  if ARGV[4] == '*' then data = entry[2] or false end
  if entry[1] == ARGV[1] then
    is_there = true
    if ARGV[5] == '1' and ARGV[4] == '*' then checksum = data
    elseif ARGV[5] == '1' then checksum = redis.sha1hex(#(data or '') .. ':' .. string.sub(data or '', 1, 1024)) end
    return 0
  end
  if is_last then ends[#ends + 1] = entry[1] end
  found[size + 1], found[size + 2] = entry[1], data
  size = size + 2
  return bytes
end)
local bounds = false
if not is_there and not is_start then
  bounds = look(KEYS[1])
  if bounds.err then return bounds end
end
return {found, is_end and 1 or 0, bounds, checksum, ends}
"""
)
"""Reads the entries of the stream KEYS[1] after the id ARGV[1]: at most ARGV[2] entries (one more if there is no entry
ARGV[1]), until the size of their fields reaches ARGV[3] bytes.

Returns a list of ids alternating with values of the field ARGV[4] (the last one if it is repeated, nil if missing), or
with all fields where that is ``*``; whether the stream ends after them; if there is no entry ARGV[1], the result of
LOOK as of the same moment; else, with ARGV[5] = 1, the SHA-1 of its value's length and first 1,024 bytes, or all its
fields; and the ids of the entries that have a field ``end``.
"""

STEP_BACK = Script(
    _WALK
    + b"""
local count = 0
local first, is_end = walk('XREVRANGE', KEYS[1], ARGV[1], '-', tonumber(ARGV[2]), tonumber(ARGV[3]), function (entry)
  local bytes = 0
  for _, text in ipairs(entry[2] or {}) do bytes = bytes + #text end
  count = count + 1
  return bytes
end)
return {count, first, is_end and 1 or 0}
"""
)
"""Counts entries of the stream KEYS[1] backwards from ARGV[1]: at most ARGV[2], until their size reaches ARGV[3] bytes.

Returns their number, the id of the first of them, and whether it is the stream's first. XREVRANGE alone would also send
the entries' bodies.
"""

STORE_ONCE = Script(b"""
local seen = redis.call('GET', KEYS[2])
if seen then
  if ARGV[5] == '1' then redis.call('SET', KEYS[2], seen, 'KEEPTTL') end
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
"""Adds field ARGV[1] with value ARGV[2] to the stream KEYS[1], unless the key KEYS[2] shows that this was done in the
last ARGV[4] ms.

Returns the entry's id, the digest it was stored with (ARGV[3]), and whether it was there before. Two commands would not
be safe: a crash between them would lose a message that looks stored. KEYS[2] is set first, so that nothing is stored
when Redis refuses that (out of memory, no permission for the key). With ARGV[5] = 1 a repeat writes, too: otherwise a
WAIT after it would not cover the first time, which may have come over another connection.
"""

INSERT = Script(b"""
local at, stored = 2, 0
while at <= #ARGV do
  local command, last = {'XADD', KEYS[1]}, at + 1 + tonumber(ARGV[at + 1])
  if ARGV[1] ~= '' then command = {'XADD', KEYS[1], 'MAXLEN', '~', ARGV[1]} end
  command[#command + 1] = ARGV[at]
  for index = at + 2, last do command[#command + 1] = ARGV[index] end
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' then
    if stored == 0 then return reply end
    return stored
  end
  at, stored = last + 1, stored + 1
end
return stored
""")
"""Adds entries to the stream KEYS[1] up to the first that Redis refuses, and returns how many; the error if none.

ARGV[1] is about how many newest entries the stream keeps, or empty; then come the id of each entry, the number of names
and values of its fields, and these. Commands in a row would store what follows a refused one: a hole that could never
be filled.
"""

RAISE_LAST = Script(b"""
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[1], 'rsws', '0', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[1], 'rsws')
end
return redis.call('XSETID', KEYS[1], ARGV[1])
""")
"""Makes ARGV[1] the last id that the stream KEYS[1] has generated. If there is none it makes one, without an entry."""

DELETE_QUIET = Script(
    _LOOK
    + b"""
local bounds = look(KEYS[1])
if bounds.err then return bounds end
local ms = string.match(bounds[2], '^(%d+)-')
if bounds[2] ~= '0-0' and tonumber(ms) < tonumber(ARGV[1]) then return redis.call('UNLINK', KEYS[1]) end
return 0
"""
)
"""Deletes the stream KEYS[1] if its last id, of an entry or not, is from before the time ARGV[1] in ms."""

CHECKED_BYTES = 1024
"""The bytes of a value that its checksum is of: all of a megabyte would cost Redis a millisecond."""


def checksum(data: bytes | None) -> bytes:
    """Return what shows whether an entry with the same id has other data, as READ returns it."""
    data = data or b""
    return sha1(b"%d:%b" % (len(data), data[:CHECKED_BYTES])).hexdigest().encode()
