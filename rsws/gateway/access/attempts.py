"""The delay for addresses that send wrong tokens."""

from __future__ import annotations

from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.peer import counted_as


class WrongTokens:
    """The delay before a wrong token is refused: it grows with the number of wrong tokens from the same address.

    A correct token is never delayed: one address may stand for many clients, or for a proxy and so for all of them.
    """

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        self._limits = limits
        self._seen: dict[str | int, tuple[int, float]] = {}
        """The number of wrong tokens and the time of the last one, by address; that seen longest ago is first."""

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._seen)

    def wait_s(self, address: str, now: float) -> float:
        """Count one more wrong token from ``address``; return the delay before it is refused.

        Args:
            now: The current monotonic time in seconds.
        """
        limits, source = self._limits, counted_as(address)
        count, before = self._seen.pop(source, (0, now))
        count = count + 1 if now - before < limits.forget_tries_s else 1
        if len(self._seen) >= limits.max_addresses:
            del self._seen[next(iter(self._seen))]
        self._seen[source] = count, now
        return limits.refusal.wait_s(count - limits.free_tries)
