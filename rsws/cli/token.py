"""``rsws token``: make a JWT, explain one, or make a key."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from rsws.cli import stdio, terminal
from rsws.cli.exits import ExitCode, Failure, StdoutClosed, epilog
from rsws.cli.options import from_settings
from rsws.errors import UsageError, about
from rsws.options import UNIT_S
from rsws.settings import TokenSettings

if TYPE_CHECKING:
    from rsws.tokens.explaining import Explanation

EPILOG = epilog(
    "rsws token --new-key > jwt.key",
    "rsws token 'news.*=r' 'chat.*=rw' --ttl 1h --sub alice --jwt-key-file jwt.key",
    "rsws token --show - --jwt-key-file jwt.key < token",
)
_TTL = re.compile(r"([0-9]{1,12})([smhd])")
_KEY_NOTE = (
    "this is the secret key of JWTs: keep it in a file that only you can read, and name that to `rsws serve` and "
    "`rsws token` with --jwt-key-file or RSWS_JWT_KEY_FILE"
)


@from_settings(TokenSettings, panel="Key")
def token(
    settings: TokenSettings,
    rights: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATTERN=r|w|rw",
            help="What the token allows: to subscribe (r) and publish (w) to the channels that a pattern names; * "
            "stands for any run of characters.",
        ),
    ] = None,
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long the token lasts: 90s, 15m, 1h, 7d.")] = "1h",
    sub: Annotated[str | None, typer.Option(metavar="NAME", help="Who holds it, for the gateway's log lines.")] = None,
    kid: Annotated[
        str | None, typer.Option(metavar="ID", help="The key's `kid`, where the gateway chooses from a JWKS.")
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN|-",
            help="Explain a token: claims, rights, time left, and whether the gateway of this key would take it, with "
            "exit code 4 if not. - reads it from standard input, so that `ps` does not show it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --show: print one JSON object.")] = False,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make a secret key for JWTs, and print it.")] = False,
) -> None:
    """Print a JWT that allows what the patterns say, signed with the gateway's --jwt-key or its file.

    With --show it explains one, also without a key: the signature is then not checked. With --new-key it makes a key.
    """
    if new_key + (show is not None) + bool(rights) > 1:
        raise UsageError("give patterns, to make a token, or --show, or --new-key")
    if as_json and show is None:
        raise UsageError("--json goes with --show")
    if new_key:
        asyncio.run(_make_key())
    elif show is not None:
        raise typer.Exit(asyncio.run(_show(settings, show, as_json=as_json)))
    else:
        asyncio.run(_print(_make(settings, rights or [], ttl, sub, kid)))


async def _print(line: str) -> None:
    await stdio.write(f"{line}\n".encode())


def _make(settings: TokenSettings, rights: list[str], ttl: str, sub: str | None, kid: str | None) -> str:
    from rsws.tokens.grant import parse_rights
    from rsws.tokens.signing import read_signing_key

    if not rights:
        raise UsageError("say what the token allows: PATTERN=r, PATTERN=w or PATTERN=rw, as in 'news.*=r'")
    channels, ttl_s = parse_rights(rights), _seconds(ttl)
    key = settings.given_jwt_key
    if key is None:
        raise UsageError(
            "no key to sign with: give the gateway's with --jwt-key-file or RSWS_JWT_KEY_FILE; "
            "`rsws token --new-key` makes one"
        )
    with about("jwt_key", "jwt_key_file"):
        signing = read_signing_key(key)
    return signing.sign(channels, ttl_s, subject=sub, audience=settings.aud, issuer=settings.iss, key_id=kid)


def _seconds(ttl: str) -> int:
    match = _TTL.fullmatch(ttl.strip())
    if match is None or not int(match[1]):
        raise UsageError(f"--ttl {ttl!r}: write how long the token lasts as 90s, 15m, 1h or 7d")
    return int(match[1]) * UNIT_S[match[2]]


async def _make_key() -> None:
    from rsws.tokens.signing import new_secret

    await _print(new_secret())
    if os.isatty(stdio.STDOUT):
        terminal.print_line(terminal.format_note(_KEY_NOTE))


async def _show(settings: TokenSettings, text: str, *, as_json: bool) -> ExitCode:
    explanation = _explain(settings, await _read_token() if text == "-" else text.strip())
    from rsws.cli.token_display import format_explanation, format_json

    with suppress(StdoutClosed):  # the verdict decides the exit code, even if nobody reads it
        format_ = format_json if as_json else format_explanation
        await stdio.write(format_(explanation, settings).encode())
    return ExitCode.REFUSED if explanation.is_valid is False else ExitCode.DONE


async def _read_token() -> str:
    return (await stdio.read_all()).decode(errors="replace").strip()


def _explain(settings: TokenSettings, text: str) -> Explanation:
    """Return what a token says.

    Raises:
        UsageError: There is no token, or the key can't be used.
        Failure: Nothing of the token can be read.
    """
    from rsws.tokens.explaining import explain
    from rsws.tokens.reasons import Reason
    from rsws.tokens.signing import read_checking_keys

    if not text:
        raise UsageError("there is no token to show")
    key = settings.given_jwt_key
    with about("jwt_key", "jwt_key_file"):
        keys = None if key is None else read_checking_keys(key)
    explanation = explain(text, keys, settings.aud, settings.iss)
    if explanation is Reason.WRONG:
        raise Failure(
            "that is no JWT, which has three parts with dots between them: a gateway takes it only if it is its secret "
            "key, and there is nothing in that to be shown",
            ExitCode.REFUSED,
        )
    if isinstance(explanation, Reason):
        raise Failure(f"no gateway takes that token: it is {explanation}", ExitCode.REFUSED)
    return explanation
