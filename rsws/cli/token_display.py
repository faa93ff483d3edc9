"""The explanation of a JWT, for people and as JSON. Its signature is no part of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.text import Text

from rsws.cli import terminal
from rsws.text import excerpt
from rsws.tokens.grant import Grant
from rsws.tokens.reasons import Reason, Refusal

if TYPE_CHECKING:
    from rsws.settings import TokenSettings
    from rsws.tokens.explaining import Explanation

NO_KEY = "signature not checked: no key given (--jwt-key-file)"
_TIMES = {"iat": ("made {} ago", "made in {}"), "nbf": ("holds since {}", "holds in {}"),
          "exp": ("expired {} ago", "expires in {}")}  # fmt: skip
"""What is said of each time when it is past, and when it is to come."""
_KNOWN = ("sub", "aud", "iss", *_TIMES)
_RIGHTS = {"r": "subscribe", "w": "publish", "rw": "subscribe, publish"}
_UNITS = ((48 * 3600, 86400, "days"), (100 * 60, 3600, "h"), (100, 60, "min"), (0, 1, "s"))
"""From how many seconds on a span is told in a unit, and the unit's own seconds."""
_WIDEST = 40


def format_explanation(explanation: Explanation, settings: TokenSettings) -> str:
    """Return what a token says, and the verdict, as lines."""
    header, claims = explanation.header, explanation.claims
    others = [name for name in claims if name not in (*_KNOWN, "channels")]
    rows = [*((name, _value(header.get(name))) for name in ("alg", "kid"))]
    rows += [(name, _time(name, claims.get(name)) if name in _TIMES else _value(claims.get(name))) for name in _KNOWN]
    rows += [(name, _value(claims[name])) for name in others]
    lines = [
        *_columns(rows, "dim", ""),
        Text(),
        *_rights(claims.get("channels")),
        Text(),
        _verdict(explanation, settings),
    ]
    return "".join(map(terminal.render, lines))


def format_json(explanation: Explanation, settings: TokenSettings) -> str:
    """Return the same as one JSON object."""
    answer, expires_at = explanation.answer, _instant(explanation.claims.get("exp"))
    said = {
        "header": explanation.header,
        "claims": explanation.claims,
        "expires_in_s": None if expires_at is None else int(expires_at.timestamp() - time.time()),
        "signature_checked": explanation.is_verified,
        "valid": explanation.is_valid,
        "reason": _why(answer, settings) if isinstance(answer, Refusal) else None,
    }
    return json.dumps(said) + "\n"


def _columns(rows: Iterable[tuple[str, str]], first: str, second: str) -> list[Text]:
    shown = [(excerpt(name), text) for name, text in rows]
    width = min(_WIDEST, max((cell_len(name) for name, _ in shown), default=0))
    return [
        Text.assemble((name, first), " " * (max(0, width - cell_len(name)) + 2), (text, second)) for name, text in shown
    ]


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return excerpt(", ".join(value))
    return excerpt(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _instant(value: Any) -> datetime | None:
    """Return the instant that a claim names; None if it names none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(int(value), UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _time(name: str, value: Any) -> str:
    instant = _instant(value)
    if instant is None:
        return _value(value)
    left_s = value - time.time()
    past, to_come = _TIMES[name]
    said = (to_come if left_s > 0 else past).format(_span(abs(left_s)))
    local = instant.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    return f"{local}  {instant.strftime('%Y-%m-%dT%H:%M:%SZ')}  {said}"


def _span(seconds: float) -> str:
    """Return a span of time in whole units, rounded down, so that nothing lasts longer than is said."""
    return next(f"{int(seconds // unit_s)} {name}" for least_s, unit_s, name in _UNITS if seconds >= least_s)


def _rights(channels: Any) -> list[Text]:
    if not channels:
        return [Text("no rights: it allows nothing")]
    if not isinstance(channels, dict):
        return _columns([("channels", _value(channels))], "dim", "")
    rows = [(name, f"{_value(right):2}  {_RIGHTS.get(str(right), '')}".rstrip()) for name, right in channels.items()]
    return _columns([("channels", "rights"), *rows], "bold", "")


def _verdict(explanation: Explanation, settings: TokenSettings) -> Text:
    answer = explanation.answer
    if isinstance(answer, Refusal):
        return Text(f"not valid for this gateway: {_why(answer, settings)}", "red")
    if not explanation.is_verified:
        return Text(NO_KEY, "yellow")
    return Text("valid for this gateway" + _forgiven(answer), "green")


def _forgiven(grant: Grant) -> str:
    assert grant.expires_at is not None
    assert grant.ends_at is not None
    if grant.expires_at > time.time():
        return ""
    return f": {grant.ends_at - grant.expires_at:g} s of difference between the clocks are forgiven"


def _why(refusal: Refusal, settings: TokenSettings) -> str:
    wanted = {Reason.AUDIENCE: f"; it takes {settings.aud}", Reason.ISSUER: f"; it takes {settings.iss}"}
    return f"it is {refusal.reason}" + excerpt(wanted.get(refusal.reason, ""))
