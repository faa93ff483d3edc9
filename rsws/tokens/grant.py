"""What a token allows: rights by channel pattern, and an end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from rsws.errors import UsageError
from rsws.patterns import matches
from rsws.text import excerpt

Rights: TypeAlias = Literal["r", "w", "rw"]
"""What a pattern gives: ``r`` is subscribe and history, ``w`` is publish."""

_READ, _PUBLISH = 1, 2
_BITS: dict[str, int] = {"r": _READ, "w": _PUBLISH, "rw": _READ | _PUBLISH}
CACHED_CHANNELS = 256
"""The channels whose rights a grant remembers: with names of 512 bytes these are 150 KB for one client."""
_SHOWN_PATTERNS = 20
_SHOWN_WHO = 80


class Grant:
    """What a token allows, and until when.

    Args:
        channels: The rights by pattern; None allows everything.
        who: The name of who holds the token.
        expires_at: When the token expires, in seconds since 1970; None for never.
        ends_at: When that is enforced.
    """

    __slots__ = ("_given", "_known", "_names", "_patterns", "ends_at", "expires_at", "is_full", "subject")

    def __init__(
        self,
        channels: Mapping[str, Rights] | None = None,
        *,
        who: str | None = None,
        expires_at: float | None = None,
        ends_at: float | None = None,
    ) -> None:
        self.is_full = channels is None
        """Whether everything is allowed: whoever asks this first need not ask further."""
        self.subject = who
        """The holder; None where the token names none."""
        self.expires_at = expires_at
        self.ends_at = ends_at
        given: Mapping[str, Rights] = {"*": "rw"} if channels is None else channels
        self._given = given
        self._names = {pattern: _BITS[rights] for pattern, rights in given.items() if "*" not in pattern}
        self._patterns = [(pattern.split("*"), _BITS[rights]) for pattern, rights in given.items() if "*" in pattern]
        self._known: dict[str, int] = {}

    @property
    def who(self) -> str | None:
        """The holder, for log lines; None where the token names none."""
        return None if self.subject is None else self.subject[:_SHOWN_WHO]

    def may_read(self, channel: str) -> bool:
        """Whether the token allows to subscribe to a channel, its history included."""
        rights = self._known.get(channel)
        return bool((self._look_up(channel) if rights is None else rights) & _READ)

    def may_publish(self, channel: str) -> bool:
        """Whether the token allows to publish to a channel."""
        rights = self._known.get(channel)
        return bool((self._look_up(channel) if rights is None else rights) & _PUBLISH)

    def _look_up(self, channel: str) -> int:
        rights = self._names.get(channel, 0)
        for pieces, given in self._patterns:
            if given | rights != rights and matches(pieces, channel):
                rights |= given
        if len(self._known) >= CACHED_CHANNELS:
            del self._known[next(iter(self._known))]
        self._known[channel] = rights
        return rights

    def missing(self, right: Literal["r", "w"], channel: str) -> str:
        """Return the text of the refusal of a request for which the right is missing."""
        doing = "subscribe to" if right == "r" else "publish to"
        shown = [f"{excerpt(pattern)}={rights}" for pattern, rights in [*self._given.items()][:_SHOWN_PATTERNS]]
        more = len(self._given) - len(shown)
        held = f"it allows {', '.join([*shown, *([f'{more} more'] if more else [])])}" if shown else "it allows nothing"
        return f"the token does not allow to {doing} {channel}, which needs the right {right!r}; {held}"

    @property
    def expiry_text(self) -> str | None:
        """When the token expires, as on the wire (RFC 3339, UTC); None for never."""
        if self.expires_at is None:
            return None
        return datetime.fromtimestamp(int(self.expires_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


FULL = Grant()
"""The grant of the secret key, unless ``--key-may`` says less."""


def parse_key_may(texts: tuple[str, ...]) -> Grant:
    """Return the grant of the secret key for the values of ``--key-may``.

    Raises:
        UsageError: One of them is not ``PATTERN=r``, ``PATTERN=w`` or ``PATTERN=rw``.
    """
    return Grant(parse_rights(texts)) if texts else FULL


def parse_rights(texts: Iterable[str]) -> dict[str, Rights]:
    """Return the rights by pattern that texts such as ``news.*=r`` say; a pattern that comes again adds to its rights.

    Args:
        texts: What somebody wrote.

    Raises:
        UsageError: One of them is not ``PATTERN=r``, ``PATTERN=w`` or ``PATTERN=rw``.
    """
    bits: dict[str, int] = {}
    for text in texts:
        pattern, _, rights = text.rpartition("=")
        if not pattern or rights not in _BITS:
            raise UsageError(f"{excerpt(text)}: write PATTERN=r, PATTERN=w or PATTERN=rw, as in 'news.*=r'")
        bits[pattern] = bits.get(pattern, 0) | _BITS[rights]
    said: dict[int, Rights] = {1: "r", 2: "w", 3: "rw"}
    return {pattern: said[each] for pattern, each in bits.items()}
