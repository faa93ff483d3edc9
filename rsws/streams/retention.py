"""Retention: trims the channels that match its rules, and no others.

A rule may also have channels deleted that have been quiet for long. Trimming is approximate (``~``): Redis drops whole
nodes of a stream, so that a little more than asked for is kept.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rsws.errors import RedisUnavailable, UsageError
from rsws.log_lines import LogLine
from rsws.options import UNIT_S
from rsws.patterns import Patterns
from rsws.protocol import OWN_KEYS
from rsws.redis.connection import ReplyError
from rsws.redis.limits import DEFAULTS
from rsws.redis.link import RedisLink
from rsws.streams.refusals import Refusals
from rsws.streams.scan import StreamScan
from rsws.streams.script_runner import ScriptRunner, ScriptsForbidden
from rsws.streams.scripts import DELETE_QUIET
from rsws.streams.slots import REDIRECTS

log = logging.getLogger("rsws.retention")

_RULE = re.compile(
    r"(?P<pattern>.+)=(?P<count>[0-9]{1,15})(?:,(?P<age>[0-9]{1,9})(?P<unit>[smhd])(?P<expire>,expire)?)?"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule for what to keep of the channels that match a pattern."""

    pattern: str
    """The glob pattern, as in Redis (``KEYS``, ``SCAN``)."""
    entries: int
    age_s: int | None
    """The age in seconds, by their ids, above which entries are trimmed, too; None for no limit."""
    expires: bool = False
    """Whether a channel is deleted that has had nothing new for ``age_s``."""
    channels: Patterns | None = None
    """Which keys are channels at all; None for all but the gateway's own."""

    @classmethod
    def parse(cls, text: str, channels: Patterns | None = None) -> Rule:
        """Parse ``PATTERN=COUNT[,AGE[,expire]]``.

        Args:
            text: What somebody wrote.
            channels: Which keys are channels at all; None for all but the gateway's own.

        Raises:
            UsageError: The text is not a rule.
        """
        match = _RULE.fullmatch(text)
        if match is None:
            raise UsageError(
                f"not a retention rule: {text!r}; write PATTERN=COUNT or PATTERN=COUNT,AGE, as in 'news.*=10000,7d', "
                "or PATTERN=COUNT,AGE,expire to delete what has had nothing new for so long"
            )
        age_s = int(match["age"]) * UNIT_S[match["unit"]] if match["age"] else None
        return cls(match["pattern"], int(match["count"]), age_s, match["expire"] is not None, channels)

    def is_for(self, key: bytes) -> bool:
        """Whether a key that the pattern names is a channel, and not somebody else's."""
        name = key.decode(errors="surrogateescape")
        return not name.startswith(OWN_KEYS) and (self.channels is None or name in self.channels)

    def names(self, channel: str) -> bool:
        """Whether the pattern names a channel, as far as can be told without Redis.

        Python's patterns are Redis' but for the sign that negates, and for backslashes.
        """
        return fnmatchcase(channel, re.sub(r"\\(.)", r"[\1]", self.pattern.replace("[^", "[!")))


class Retention:
    """The task that applies retention rules periodically.

    Args:
        rules: The rules to apply.
        link: The connection to Redis.
        refusals: Says what the server refuses.
        every_s: The pause after all rules were applied.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        link: RedisLink,
        refusals: Refusals | None = None,
        *,
        every_s: float = DEFAULTS.trim_every_s,
    ) -> None:
        self._rules = rules
        self._link = link
        self._scripts = ScriptRunner(link, refusals or Refusals())
        self._every_s = every_s
        self._scan = StreamScan(link)
        self._logged: dict[Rule, str | None] = {}

    async def run(self) -> None:
        """Apply the rules until cancelled."""
        while self._rules:
            try:
                for rule in self._rules:
                    await self._apply(rule)
            except RedisUnavailable:
                pass  # it is retried in the next round; the store reports the outage
            await asyncio.sleep(self._every_s)

    async def _apply(self, rule: Rule) -> None:
        trouble = None
        try:
            async for key in self._scan.all(rule.pattern.encode()):
                if rule.is_for(key):
                    trouble = await self._trim(key, rule) or trouble
        except ReplyError as error:
            trouble = f"looking for them: {error}"
        if trouble is not None and trouble != self._logged.get(rule):
            log.warning(LogLine("trimming failed", pattern=rule.pattern, cause=str(trouble)))
        self._logged[rule] = trouble

    async def _trim(self, key: bytes, rule: Rule) -> str | None:
        """Trim one stream; return the reason if that failed, else None."""
        try:
            await self._link.call(b"XTRIM", key, b"MAXLEN", b"~", b"%d" % rule.entries)
            if rule.age_s is not None:
                oldest_ms = max(0, int((time.time() - rule.age_s) * 1000))
                await self._link.call(b"XTRIM", key, b"MINID", b"~", b"%d" % oldest_ms)
                if rule.expires:
                    await self._scripts.ask(DELETE_QUIET, (key,), (b"%d" % oldest_ms,))
        except ScriptsForbidden:
            return None  # it was said what that costs
        except ReplyError as error:
            text = str(error)
            if error.forbids_command:
                return text
            return None if text.startswith(("WRONGTYPE", *REDIRECTS)) else f"{key.decode(errors='replace')!r}: {text}"
        return None
