"""``rsws token``: JWTs made and explained, and keys."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from kit.cli import Terminal, call_main, run_main, serving
from kit.support import RedisServer
from kit.tokens import SECRET, encoded, jwks, pair, sign, token
from rsws.cli.exits import ExitCode
from rsws.cli.token_display import _span
from rsws.env_file import load_env_file
from rsws.tokens.grant import Grant
from rsws.tokens.keys import read_keys
from rsws.tokens.reasons import Refusal
from rsws.tokens.signed import SignedTokens

Output = pytest.CaptureFixture[str]


def private_pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8, passphrase: bytes = b"") -> str:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return str(key.private_bytes(Encoding.PEM, form, encryption).decode())


def claims_of(text: str) -> dict[str, Any]:
    payload = text.split(".")[1]
    claims: dict[str, Any] = json.loads(encoded_back(payload))
    return claims


def encoded_back(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key that this and no other option names."""
    path = tmp_path / "jwt.key"
    path.write_text(f"{SECRET}\n")
    return path


# --- making ---


@pytest.mark.parametrize("kind", ["HS256", "RS256", "ES256", "EdDSA"])
def test_a_token_of_each_kind_of_key_is_taken_by_the_gateway(kind: str, tmp_path: Path, capfd: Output) -> None:
    keys = pair(kind)
    (tmp_path / "key").write_text(SECRET if kind == "HS256" else private_pem(keys.private))
    made = call_main(
        "token", "news.*=r", "chat.*=r", "chat.*=w", "a=b=w", "--jwt-key-file", "key", "--sub", "alice", "--kid", "x",
        "--aud", "me", "--iss", "you",
    )  # fmt: skip
    shown = capfd.readouterr()
    assert (made, shown.err) == (ExitCode.DONE, "")
    [text] = shown.out.splitlines()
    assert json.loads(encoded_back(text.split(".")[0])) == {"alg": kind, "typ": "JWT", "kid": "x"}
    claims = claims_of(text)
    assert (claims["aud"], claims["iss"]) == ("me", "you")
    assert claims["exp"] - claims["iat"] == 3600
    grant = SignedTokens(read_keys(keys.public), "me", "you").check(text)
    assert isinstance(grant, Grant)
    assert grant.who == "alice"
    rights = {name: (grant.may_read(name), grant.may_publish(name)) for name in ("news.1", "chat.1", "a=b", "x")}
    assert rights == {"news.1": (True, False), "chat.1": (True, True), "a=b": (False, True), "x": (False, False)}


@pytest.mark.parametrize(("ttl", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)])
def test_how_long_it_lasts(ttl: str, seconds: int, key_file: Path, capfd: Output) -> None:
    os.environ["RSWS_JWT_KEY_FILE"] = str(key_file)
    assert call_main("token", "a=r", "--ttl", ttl) == ExitCode.DONE
    claims = claims_of(capfd.readouterr().out)
    assert claims == {"iat": claims["iat"], "exp": claims["iat"] + seconds, "channels": {"a": "r"}}


def test_the_settings_are_those_of_the_gateway(tmp_path: Path, capfd: Output) -> None:
    Path(".env").write_text(f"RSWS_JWT_KEY={SECRET}\nRSWS_JWT_AUDIENCE=me\nRSWS_JWT_ISSUER=you\n")
    load_env_file()
    assert call_main("token", "a=r") == ExitCode.DONE
    text = capfd.readouterr().out.strip()
    assert (claims_of(text)["aud"], claims_of(text)["iss"]) == ("me", "you")
    assert call_main("token", "--show", text) == ExitCode.DONE
    (tmp_path / "other").write_text("o" * 32)
    assert call_main("token", "--show", text, "--jwt-key-file", "other") == ExitCode.REFUSED
    assert "wrong signature" in capfd.readouterr().out


EC384 = ec.generate_private_key(ec.SECP384R1())
WRONG_KEYS: dict[str, tuple[str, str]] = {
    "short": ("x" * 31, "31 bytes, and 32 are needed; make one with `rsws token --new-key`"),
    "public": (pair("ES256").public, "that is a public key, it verifies; signing needs the private one"),
    "public, of SSH": ("ssh-ed25519 " + "A" * 60, "that is a public key, it verifies"),
    "JWKS": (jwks("ES256"), "that is a JWKS, it verifies; signing needs the private one"),
    "certificate": ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "that is a certificate"),
    "passphrase": (private_pem(pair("EdDSA").private, passphrase=b"secret"), "has a passphrase"),
    "SSH": (private_pem(pair("EdDSA").private, PrivateFormat.OpenSSH), "a key of SSH: make one"),
    "cut off": (private_pem(pair("RS256").private)[:300], "can't be read"),
    "another curve": (private_pem(EC384), "of a kind that is not taken"),
    "a weak one": (private_pem(rsa.generate_private_key(65537, 1024)), "1024 bits, and 2048"),
    "public in base64 alone": ("".join(pair("EdDSA").public.splitlines()[1:-1]), "base64 alone"),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_what_can_t_sign_is_said(name: str, tmp_path: Path, capfd: Output) -> None:
    text, said = WRONG_KEYS[name]
    (tmp_path / "key").write_text(text)
    assert call_main("token", "a=r", "--jwt-key-file", "key") == ExitCode.USAGE
    shown = capfd.readouterr()
    assert shown.out == ""
    assert said in " ".join(shown.err.split())
    assert text[5:31] not in shown.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "PATTERN=r, PATTERN=w or PATTERN=rw, as in 'news.*=r'"),
        (("news.*",), "news.*: write PATTERN=r"),
        (("=r",), "write PATTERN=r"),
        (("a=x",), "write PATTERN=r"),
        (("a=r", "b=wr"), "b=wr: write PATTERN=r"),
        (("a=r", "--ttl", "5"), "as 90s, 15m, 1h or 7d"),
        (("a=r", "--ttl", "0s"), "as 90s, 15m, 1h or 7d"),
        (("a=r", "--ttl", "-1h"), "as 90s, 15m, 1h or 7d"),
        (("a=r", "--ttl", "1w"), "as 90s, 15m, 1h or 7d"),
        (("a=r", "--ttl", "9999999d"), "beyond the year 9999"),
        (("a\udcff=r",), "not valid UTF-8"),
        (("a=r", "--kid", "\udcff"), "not valid UTF-8"),
        (("x" * 13_000 + "=r",), "no gateway takes more than 16,384; let one pattern"),
        (("a=r", "--show", "x"), "or --show, or --new-key"),
        (("a=r", "--new-key"), "or --show, or --new-key"),
        (("--show", "x", "--new-key"), "or --show, or --new-key"),
        (("a=r", "--json"), "--json goes with --show"),
        (("--show", ""), "no token to show"),
        (("a=r", "--jwt-key-file", "none"), "can't be read: No such file"),
    ],
)
def test_wrong_use_is_said(arguments: tuple[str, ...], said: str, key_file: Path, capfd: Output) -> None:
    os.environ["RSWS_JWT_KEY_FILE"] = str(key_file)
    assert call_main("token", *arguments) == ExitCode.USAGE
    shown = capfd.readouterr()
    assert shown.out == ""
    assert said in " ".join(shown.err.split())


def test_without_a_key_nothing_is_signed(capfd: Output) -> None:
    assert call_main("token", "a=r") == ExitCode.USAGE
    assert "no key to sign with: give the gateway's with --jwt-key-file" in " ".join(capfd.readouterr().err.split())


def test_a_gateway_lets_in_who_has_a_token_that_was_made(
    redis_server: RedisServer, channel: str, key_file: Path
) -> None:
    with serving(redis_server.url, RSWS_JWT_KEY_FILE=str(key_file)) as gateway:
        made = run_main("token", f"{channel}=w", env={"RSWS_JWT_KEY_FILE": str(key_file)})
        env = {"RSWS_URL": gateway.url, "RSWS_TOKEN": made.stdout.strip()}
        assert run_main("pub", channel, "1", env=env).returncode == ExitCode.DONE
        refused = run_main("sub", channel, env=env)
    assert refused.returncode == ExitCode.REFUSED
    assert f"it allows {channel}=w" in refused.stderr


# --- keys ---


def test_a_new_key_is_one(capfd: Output) -> None:
    keys = set()
    for _ in range(2):
        assert call_main("token", "--new-key") == ExitCode.DONE
        shown = capfd.readouterr()
        assert shown.err == ""
        assert re.fullmatch(r"[-_A-Za-z0-9]{43}\n", shown.out)
        assert len(read_keys(shown.out)) == 1
        keys.add(shown.out)
    assert len(keys) == 2


def test_a_terminal_is_told_where_the_new_key_goes() -> None:
    with Terminal("token", "--new-key", env={}) as terminal:
        terminal.wait_for("--jwt-key-file or RSWS_JWT_KEY_FILE")
        assert terminal.wait() == ExitCode.DONE


# --- explaining ---

VALID, EXPIRED = "valid for this gateway", "not valid for this gateway: it is a JWT that has expired"
UNCHECKED = "signature not checked: no key given (--jwt-key-file)"


def full(now: int) -> dict[str, Any]:
    """The claims of a token that has all of them."""
    return {
        "sub": "alice",
        "aud": ["me", "us"],
        "iss": "you",
        "iat": now - 400,
        "nbf": now - 400,
        "exp": now + 3590,
    }


def verdicts(now: int) -> dict[str, tuple[str, str, str | None]]:
    """The token, the last line, and the last line without a key; None where that is the same."""
    return {
        "right": (token(), VALID, UNCHECKED),
        "just expired": (token(exp=now - 5), f"{VALID}: 30 s of difference", UNCHECKED),
        "expired": (token(exp=now - 40), EXPIRED, None),
        "another key": (sign("HS256", "x" * 32, {"exp": now + 99}), "a JWT with a wrong signature", UNCHECKED),
        "another algorithm": (token("ES256"), "another algorithm than its key's", UNCHECKED),
        "an algorithm of no key": (sign("none", "", {"exp": now + 99}), "another algorithm than its key's", None),
        "an extension": (token(headers={"crit": ["x"]}), "a JWT with an extension that is not known", None),
        "no exp": (token(exp=None), "a JWT without exp", None),
        "exp in milliseconds": (token(exp=now * 1000), "not in seconds since 1970", None),
        "exp that is no number": (token(exp="soon"), "a claim of the wrong type", None),
        "from the future": (token(nbf=now + 90), "a JWT from the future", None),
        "channels that are none": (token(channels=["a"]), "no map of patterns", None),
        "a right that is none": (token(channels={"a": "x"}), "no map of patterns", None),
    }  # fmt: skip


@pytest.mark.parametrize("name", verdicts(0))
def test_the_verdict_is_the_gateway_s(name: str, capfd: Output) -> None:
    text, with_key, without_key = verdicts(int(time.time()))[name]
    signature = text.split(".")[2]
    codes = []
    for key, said in ((SECRET, with_key), ("", without_key or with_key)):
        os.environ["RSWS_JWT_KEY"] = key
        codes.append(call_main("token", "--show", text))
        shown = capfd.readouterr()
        assert said in shown.out.splitlines()[-1]
        assert shown.err == ""
        assert not signature or signature not in shown.out
    is_refused = isinstance(SignedTokens(read_keys(SECRET)).check(text), Refusal)
    assert codes == [
        ExitCode.REFUSED if is_refused else ExitCode.DONE,
        ExitCode.REFUSED if without_key is None else ExitCode.DONE,
    ]


def test_what_a_token_says_is_shown(capfd: Output) -> None:
    os.environ |= {"TZ": "Asia/Jakarta", "COLUMNS": "40"}
    time.tzset()
    now = int(time.time())
    rights = {"news.*": "r", "a-long-name\u202e": "rw", "o": "w"}
    text = token(headers={"kid": "k1"}, jti={"n": "\x9b"}, channels=rights, **full(now))
    try:
        assert call_main("token", "--show", text) == ExitCode.DONE
    finally:
        del os.environ["TZ"]
        time.tzset()
    exp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 3590))
    local = time.strftime("%Y-%m-%d %H:%M:%S WIB", time.gmtime(now + 3590 + 7 * 3600))
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(("iat", "nbf", "exp"))] == [
        "alg  HS256",
        "kid  k1",
        "sub  alice",
        "aud  me, us",
        "iss  you",
        r'jti  {"n": "\u009b"}',
        "",
        "channels           rights",
        "news.*             r   subscribe",
        r"a-long-name\u202e  rw  subscribe, publish",
        "o                  w   publish",
        "",
        UNCHECKED,
    ]
    assert [line for line in lines if line.startswith("exp")] == [f"exp  {local}  {exp}  expires in 59 min"]
    assert [line.rpartition("  ")[2] for line in lines if line.startswith(("iat", "nbf"))] == [
        "made 6 min ago",
        "holds since 6 min",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (99.9, "99 s"),
        (100, "1 min"),
        (3599, "59 min"),
        (6000, "1 h"),
        (172_799, "47 h"),
        (259_200, "3 days"),
    ],
)
def test_spans_of_time(seconds: float, said: str) -> None:
    assert _span(seconds) == said


def test_audience_and_issuer_say_what_the_gateway_takes(capfd: Output) -> None:
    os.environ["RSWS_JWT_KEY"] = SECRET
    now = int(time.time())
    for options, said in ((("--aud", "x"), "for another audience; it takes x"), (("--iss", "x"), "it takes x")):
        assert call_main("token", "--show", token(**full(now)), *options) == ExitCode.REFUSED
        assert said in capfd.readouterr().out.splitlines()[-1]
    assert call_main("token", "--show", token(**full(now)), "--aud", "us", "--iss", "you") == ExitCode.DONE


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA", "JWKS"])
def test_either_key_of_a_pair_checks(kind: str, tmp_path: Path, capfd: Output) -> None:
    for key in (pair(kind).public, *([private_pem(pair(kind).private)] if kind != "JWKS" else [])):
        (tmp_path / "key").write_text(key)
        assert call_main("token", "--show", token(kind), "--jwt-key-file", "key") == ExitCode.DONE
        assert capfd.readouterr().out.endswith(f"\n{VALID}\n")


GARBAGE: dict[str, tuple[str, str]] = {
    "a word": ("garbage", "that is no JWT, which has three parts with dots between them"),
    "not UTF-8": ("\udcff.a.b", "that is no JWT"),
    "no header": ("..", "it is a JWT that can't be read"),
    "no JSON": (f"{encoded(b'{')}.e30.x", "it is a JWT that can't be read"),
    "no object": (sign("HS256", SECRET, b"[1]"), "it is a JWT that can't be read"),
    "long": (f"a.{'b' * 20_000}.c", "it is longer than any token"),
}
if sys.version_info < (3, 14):  # which reads this
    GARBAGE["deep"] = (
        sign("HS256", SECRET, b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"),
        "it is a JWT that can't be read",
    )


@pytest.mark.parametrize("key", [SECRET, ""])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_said_to_be_garbage(name: str, key: str, capfd: Output) -> None:
    text, said = GARBAGE[name]
    os.environ["RSWS_JWT_KEY"] = key
    for more in ((), ("--json",)):
        assert call_main("token", "--show", text, *more) == ExitCode.REFUSED
        shown = capfd.readouterr()
        assert shown.out == ""
        assert said in " ".join(shown.err.split())


def test_json(capfd: Output) -> None:
    os.environ["RSWS_JWT_KEY"] = SECRET
    now = int(time.time())
    for text, valid, reason in (
        (token(**full(now)), True, None),
        (token(exp=now - 40), False, "it is a JWT that has expired"),
    ):
        call_main("token", "--show", text, "--json")
        [line] = capfd.readouterr().out.splitlines()
        said = json.loads(line)
        assert said.pop("expires_in_s") == pytest.approx(claims_of(text)["exp"] - time.time(), abs=10)
        assert said == {
            "header": {"alg": "HS256", "typ": "JWT"},
            "claims": claims_of(text),
            "signature_checked": True,
            "valid": valid,
            "reason": reason,
        }
    del os.environ["RSWS_JWT_KEY"]
    assert call_main("token", "--show", token(exp=None), "--json") == ExitCode.REFUSED
    assert json.loads(capfd.readouterr().out)["expires_in_s"] is None
    assert call_main("token", "--show", token(), "--json") == ExitCode.DONE
    said = json.loads(capfd.readouterr().out)
    assert (said["signature_checked"], said["valid"]) == (False, None)


def test_a_token_is_read_from_standard_input(key_file: Path) -> None:
    env = {"RSWS_JWT_KEY_FILE": str(key_file)}
    shown = run_main("token", "--show", "-", input=f"{token()}\n", env=env)
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (ExitCode.DONE, VALID)
    assert "no token to show" in run_main("token", "--show", "-", input="", env=env).stderr
