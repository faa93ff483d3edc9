"""Numbers in few characters, for people, and names cut in the middle."""

from __future__ import annotations

from rsws.text import safe

_SIZES = ("B", "K", "M", "G", "T", "P")
_SPANS = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def size(value: int | None) -> str:
    """Return a size in bytes such as ``17.3M``, in powers of 1024; empty for None."""
    if value is None:
        return ""
    number, unit = float(value), 0
    while number >= 999.5 and unit < len(_SIZES) - 1:
        number, unit = number / 1024, unit + 1
    return _short(number) + _SIZES[unit]


def count(value: float | None) -> str:
    """Return a number such as ``17.3k``; empty for None."""
    if value is None:
        return ""
    number, unit = float(value), 0
    while number >= 9999.5 and unit < 4:
        number, unit = number / 1000, unit + 1
    text = _short(number) if number < 100 or unit else f"{number:.0f}"
    return text + ("", "k", "M", "G", "T")[unit]


def span(seconds: float | None) -> str:
    """Return a time such as ``3m`` or ``0.2s``; empty for None."""
    if seconds is None:
        return ""
    for unit_s, unit in _SPANS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f}{unit}" if seconds >= 10 * unit_s else f"{_short(seconds / unit_s)}{unit}"
    return f"{seconds:.1f}s"


def shortened(text: str, width: int) -> str:
    """Return a text that is safe to be shown, cut in the middle where it is longer than ``width`` characters."""
    shown = safe(text)
    if len(shown) <= width:
        return shown
    tail = (width - 1) // 2
    return f"{shown[: width - 1 - tail]}…{shown[len(shown) - tail :]}"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number < 99.95 else f"{number:.0f}"
