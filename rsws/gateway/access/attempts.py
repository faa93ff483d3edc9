"""The delay for addresses that send wrong tokens."""

from __future__ import annotations

from ipaddress import IPv6Network

from rsws.gateway.limits import DEFAULTS, Limits


class WrongTokens:
    """The delay before a wrong token is refused: it grows with the number of wrong tokens from the same address.

    A correct token is never delayed: one address may stand for many clients, or for a proxy and so for all of them.
    """

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        self._limits = limits
        self._seen: dict[str | IPv6Network, tuple[int, float]] = {}
        """The number of wrong tokens and the time of the last one, by address; that seen longest ago is first."""

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._seen)

    def wait_s(self, address: str, now: float) -> float:
        """Count one more wrong token from ``address``; return the delay before it is refused.

        Args:
            now: The current monotonic time in seconds.
        """
        limits, source = self._limits, _source(address)
        count, before = self._seen.pop(source, (0, now))
        count = count + 1 if now - before < limits.forget_tries_s else 1
        if len(self._seen) >= limits.max_addresses:
            del self._seen[next(iter(self._seen))]
        self._seen[source] = count, now
        return limits.refusal.wait_s(count - limits.free_tries)


def _source(address: str) -> str | IPv6Network:
    """Return what an address is counted under: itself, or its /64 network in IPv6, where a client has 2**64 of them."""
    if ":" not in address:
        return address
    return IPv6Network((address.partition("%")[0], 64), strict=False)
