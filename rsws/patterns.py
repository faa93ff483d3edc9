"""Patterns of channel names, in which ``*`` stands for any run of characters and nothing else is special."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

CACHED_NAMES = 1024
"""The names whose answer is remembered: with names of 512 bytes these are 600 KB."""


class Patterns:
    """Names, and patterns of names. Whether it has a name is remembered.

    Args:
        patterns: They; a name matches that matches any of them.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        given = list(patterns)
        self._names = {pattern for pattern in given if "*" not in pattern}
        self._patterns = [pattern.split("*") for pattern in given if "*" in pattern]
        self._known: dict[str, bool] = {}

    @classmethod
    def of(cls, patterns: Sequence[str]) -> Patterns | None:
        """Return the patterns; None where they name everything: where there are none, too."""
        return None if not patterns or "*" in patterns else cls(patterns)

    def __contains__(self, name: str) -> bool:
        known = self._known.get(name)
        return self._look_up(name) if known is None else known

    def with_name(self, name: str) -> str | None:
        """Return a name that matches and has ``name`` in it; None where no pattern leaves room for it."""
        if name in self:
            return name
        return next((name.join(["".join(pieces[:1]), "".join(pieces[1:])]) for pieces in self._patterns), None)

    def _look_up(self, name: str) -> bool:
        answer = name in self._names or any(matches(pieces, name) for pieces in self._patterns)
        if len(self._known) >= CACHED_NAMES:
            del self._known[next(iter(self._known))]
        self._known[name] = answer
        return answer


def matches(pieces: list[str], name: str) -> bool:
    """Whether a name consists of the pieces of a pattern, in order, with anything between them.

    This takes time proportional to the name's length, whatever the number of pieces: a regular expression with many
    would take seconds for one name.
    """
    first, *between, last = pieces
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in between:  # the earliest place leaves the most room for the others
        found = name.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True
