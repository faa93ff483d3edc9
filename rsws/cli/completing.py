"""What the shell may complete; what can't be found out is not completed, and nothing is ever said."""

from __future__ import annotations

from rsws.errors import RswsError
from rsws.profiles import read_profiles


def profiles(incomplete: str) -> list[str]:
    """Return the names of profiles that begin like that."""
    try:
        return [name for name in read_profiles().of if name.startswith(incomplete)]
    except RswsError:
        return []
