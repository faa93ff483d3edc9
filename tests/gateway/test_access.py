"""Rights, keys and tokens without a network: what is taken, what is refused, and for which reason."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from kit import fuzz_tokens
from kit.gateway import KEY
from kit.support import RedisServer, RswsProcess
from kit.tokens import KINDS, SECRET, claims, encoded, jwk, jwks, pair, sign, token
from rsws.errors import RswsError, SetupError, UsageError
from rsws.gateway.access.control import AccessControl
from rsws.gateway.access.ends import AT_ONCE, Ends, TokenHolder
from rsws.gateway.access.files import KeyFile
from rsws.gateway.access.presented import Source, find_token
from rsws.gateway.access.tokens import TokenCheck
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.metrics import Metrics
from rsws.gateway.peer import Peer
from rsws.settings import Settings
from rsws.tokens.grant import CACHED_CHANNELS, FULL, Grant, parse_key_may
from rsws.tokens.keys import read_keys
from rsws.tokens.reasons import Reason, Refusal
from rsws.tokens.signed import SignedTokens

# --- patterns ---


@pytest.mark.parametrize(
    ("pattern", "channel", "fits"),
    [
        ("*", "", True),
        ("*", "a", True),
        ("a", "a", True),
        ("a", "A", False),
        ("a", "ab", False),
        ("", "a", False),
        ("news.*", "news.", True),
        ("news.*", "newsX", False),
        ("*.end", "a.end", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "acb", False),
        ("**", "x", True),
        ("*a**b*", "ab", True),
        ("a?c", "abc", False),
        ("[ab]", "a", False),
        ("a.c", "abc", False),
        ("a\\*", "a*", False),
        ("é*", "é1", True),
    ],
)
def test_a_star_is_any_run_of_characters_and_nothing_else_is_special(pattern: str, channel: str, fits: bool) -> None:
    assert Grant({pattern: "r"}).may_read(channel) is fits


def test_patterns_mean_what_the_regular_expression_means() -> None:
    for length in range(5):
        for pattern in map("".join, product("ab*", repeat=length)):
            grant, expression = Grant({pattern: "w"}), re.compile(pattern.replace("*", ".*"))
            for channel in map("".join, product("ab", repeat=3)):
                assert grant.may_publish(channel) is bool(expression.fullmatch(channel)), (pattern, channel)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    grant = Grant({"*a" * 200 + "*b": "r"})
    before = time.process_time()
    assert not grant.may_read("a" * 512)
    assert time.process_time() - before < 0.05


def test_rights_are_the_union_of_all_patterns() -> None:
    grant = Grant({"a*": "r", "*b": "w", "ab": "r", "c": "rw"})
    rights = {name: (grant.may_read(name), grant.may_publish(name)) for name in ("ab", "ax", "xb", "c", "d")}
    assert rights == {
        "ab": (True, True), "ax": (True, False), "xb": (False, True), "c": (True, True), "d": (False, False),
    }  # fmt: skip


def test_what_a_grant_remembers_is_bounded_and_right() -> None:
    grant = Grant({"a*": "r"})
    for number in range(3 * CACHED_CHANNELS):
        assert grant.may_read(f"a{number}")
        assert not grant.may_read(f"b{number}")
    assert len(grant._known) == CACHED_CHANNELS


def test_a_refusal_names_channel_right_and_patterns() -> None:
    text = Grant({"news.*": "r", "b\n": "w"}).missing("w", "news.1")
    assert (
        text
        == "the token does not allow to publish to news.1, which needs the right 'w'; it allows news.*=r, b\\u000a=w"
    )
    many = Grant({f"pattern-{number}": "r" for number in range(500)}).missing("r", "x")
    assert many.endswith("pattern-19=r, 480 more")
    assert Grant({}).missing("r", "x").endswith("it allows nothing")


def test_the_secret_key_may_do_what_the_operator_says() -> None:
    assert parse_key_may(()) is FULL
    grant = parse_key_may(("a=b=r", "x=w", "x=r"))
    assert not grant.is_full
    assert grant.may_read("a=b")
    assert grant.may_read("x")
    assert grant.may_publish("x")
    for wrong in ("a", "=r", "a=x", "a=", "r", "a=wr"):
        with pytest.raises(UsageError, match="PATTERN=r"):
            parse_key_may((wrong,))


# --- keys ---


def pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def test_every_kind_of_key_has_its_algorithm() -> None:
    for kind in ("HS256", "RS256", "ES256", "EdDSA"):
        key = read_keys(f"\n{pair(kind).public}\n").find("whatever")
        assert not isinstance(key, Reason)
        assert key.algorithm == kind
        assert SECRET not in repr(key)
    keys = read_keys(jwks("RS256", "ES256", "EdDSA"))
    assert len(keys) == 3
    assert keys.find(None) is Reason.NO_KEY_ID
    assert keys.find("oct") is Reason.UNKNOWN_KEY_ID


def test_pkcs1_is_read_too() -> None:
    text = pair("RS256").private.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
    assert "BEGIN RSA PUBLIC KEY" in text
    assert len(read_keys(text)) == 1


def private_pem() -> str:
    text: bytes = pair("ES256").private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


WRONG_KEYS: dict[str, tuple[str, str]] = {
    "short": ("x" * 31, "31 bytes, and 32"),
    "private": (private_pem(), "private key"),
    "certificate": ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "openssl x509"),
    "several": (pair("ES256").public * 2, "several keys"),
    "cut off": (pair("RS256").public[:200], "can't be read"),
    "ssh": ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDWz1kb3h4rVXXXXXXXXXXXXXXXXXXXXXXXX", "SSH"),
    "another curve": (pem(ec.generate_private_key(ec.SECP384R1())), "of a kind"),
    "Ed448": (pem(ed448.Ed448PrivateKey.generate()), "of a kind"),
    "a weak one": (pem(rsa.generate_private_key(65537, 1024)), "1024 bits"),
    "JSON cut off": (jwks("ES256")[:-3], "no JWKS"),
    "a list": (json.dumps([jwk("ES256")]), "no JWKS"),
    "a single JWK": (json.dumps(jwk("ES256")), "no JWKS"),
    "a JWKS of nothing": ('{"keys":[]}', "no key in it"),
    "a JWKS of secrets": (jwks(), "no key in it"),
    "a JWKS without kid": (json.dumps({"keys": [jwk("ES256", kid=None)]}), "no key in it"),
    "a JWKS for encryption": (json.dumps({"keys": [jwk("RS256", use="enc"), jwk("ES256", key_ops=[])]}), "no key"),
    "a JWKS of other algorithms": (json.dumps({"keys": [jwk("RS256", alg="PS256"), jwk("ES256", x="AA")]}), "no key"),
    "a JWKS with a kid twice": (json.dumps({"keys": [jwk("ES256"), jwk("EdDSA", kid="ES256")]}), "same kid"),
    "a private JWKS": (json.dumps({"keys": [jwk("EdDSA", d="AA")]}), "private key"),
} | {
    f"{kind} in base64 alone": ("".join(pair(kind).public.splitlines()[1:-1]), "base64 alone")
    for kind in ("RS256", "ES256", "EdDSA")
} | {
    f"{kind} in base64url": (encoded(base64.b64decode("".join(pair(kind).public.splitlines()[1:-1]))), "base64 alone")
    for kind in ("RS256", "ES256", "EdDSA")
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_what_is_no_key_is_said_and_never_a_secret(name: str) -> None:
    text, said = WRONG_KEYS[name]
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        read_keys(text)
    assert text[40:60] not in str(caught.value) or len(text) < 60


def test_a_public_key_needs_the_extra_and_says_so() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from rsws.errors import SetupError\n"
        "from rsws.tokens.keys import read_keys\n"
        "from rsws.tokens.signed import SignedTokens\n"
        "SignedTokens(read_keys('s' * 32)).check('a.b.c')\n"
        "for text in sys.argv[1:]:\n"
        "    try: read_keys(text)\n"
        "    except SetupError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pair("ES256").public, jwks("ES256")], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("pip install 'rsws[jwt]'") == 2


def test_a_gateway_without_a_key_for_them_loads_no_library_for_jwts() -> None:
    code = "import sys, rsws.gateway.access.control; print({'jwt', 'cryptography'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- tokens ---


def check_of(kind: str, **more: Any) -> SignedTokens:
    return SignedTokens(read_keys(pair(kind).public), **more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_token_of_every_kind(kind: str) -> None:
    ends = time.time() + 100
    grant = check_of(kind).check(token(kind, exp=ends, channels={"a": "r"}))
    assert isinstance(grant, Grant)
    assert (grant.who, grant.expires_at, grant.ends_at) == ("alice", ends, ends + 30)
    assert grant.may_read("a")
    assert not grant.may_publish("a")
    assert not grant.is_full


def test_a_token_without_channels_allows_nothing() -> None:
    grant = check_of("HS256").check(token(channels=None, sub=None))
    assert isinstance(grant, Grant)
    assert not grant.may_read("a")
    assert grant.who is None


def refused(kind: str = "HS256", text: str | None = None, audience: str | None = None, **more: Any) -> Reason:
    answer = check_of(kind, audience=audience, issuer=more.pop("issuer", None)).check(text or token(kind, **more))
    assert isinstance(answer, Refusal)
    return answer.reason


def test_claims_that_are_wrong() -> None:
    now = time.time()
    assert refused(exp=None) is Reason.NO_EXPIRY
    assert refused(exp=now - 31) is Reason.EXPIRED
    assert refused(exp=now * 1000) is Reason.BAD_TIME
    assert refused(nbf=now + 40) is Reason.NOT_YET
    assert refused(iat=now + 40) is Reason.NOT_YET
    assert refused(nbf=-1) is Reason.BAD_TIME
    assert refused(audience="a") is Reason.AUDIENCE
    assert refused(audience="a", aud=["b"]) is Reason.AUDIENCE
    assert refused(issuer="a", iss="b") is Reason.ISSUER
    assert refused(issuer="a") is Reason.ISSUER
    claim: dict[str, Any]
    for claim in ({"exp": "1e9"}, {"exp": True}, {"sub": 1}, {"aud": 1}, {"iss": []}):
        assert refused(**claim) is Reason.BAD_CLAIM, claim
    for channels in ("rw", ["a"], {"a": "x"}, {"a": "wr"}, {"a": ""}, {"a": 1}):
        assert refused(channels=channels) is Reason.BAD_CHANNELS, channels


def test_claims_that_are_right() -> None:
    now = time.time()
    check = check_of("HS256", audience="a", issuer="i")
    for right in ({"exp": now - 25}, {"nbf": now + 25, "iat": now + 25}, {"exp": int(now) + 1}, {"aud": ["x", "a"]}):
        assert isinstance(check.check(token(**{"aud": "a", "iss": "i"} | right)), Grant), right
    assert isinstance(check_of("HS256").check(token(aud="whatever", iss="whoever")), Grant)


@pytest.mark.parametrize("kind", KINDS)
def test_an_algorithm_is_never_what_the_token_asks_for(kind: str) -> None:
    keys = pair(kind)
    head = {} if keys.key_id is None else {"kid": keys.key_id}
    for name in ("none", "None", "NONE", "", "HS384", "RS384", "PS256", "ES384", "ES256K"):
        assert refused(kind, sign("none", "", claims(), head | {"alg": name})) is Reason.ALGORITHM, name
    for other in {"RS256", "ES256", "EdDSA"} - {keys.algorithm}:
        foreign = sign(other, pair(other).private, claims(), head)
        assert refused(kind, foreign) is Reason.ALGORITHM
        assert refused(kind, sign(other, pair(other).private, claims(), head | {"alg": keys.algorithm})) in (
            Reason.SIGNATURE, Reason.UNREADABLE,
        )  # fmt: skip
    if kind != "HS256":
        for secret in (keys.public, keys.public.strip(), pair("ES256").public, ""):
            assert refused(kind, sign("HS256", secret, claims(), head)) is Reason.ALGORITHM


def test_a_kid_is_a_name_among_the_keys_and_nothing_else() -> None:
    private = pair("ES256").private
    for kid in ("", "x", "../../../dev/null", "' UNION SELECT 'x", "oct", "for encryption", "es256", "\0"):
        assert refused("JWKS", sign("ES256", private, claims(), {"kid": kid})) is Reason.UNKNOWN_KEY_ID
    assert refused("JWKS", sign("ES256", private, claims())) is Reason.NO_KEY_ID
    assert refused("JWKS", sign("ES256", private, claims(), {"kid": "RS256"})) is Reason.ALGORITHM
    assert refused("JWKS", sign("HS256", SECRET, claims(), {"kid": "oct"})) is Reason.UNKNOWN_KEY_ID
    odd: tuple[Any, ...] = (1, None, [], {})
    for each in odd:
        assert refused("JWKS", sign("ES256", private, claims(), {"kid": each})) in (Reason.UNREADABLE, Reason.NO_KEY_ID)
    own_key = {"jwk": jwk("ES256"), "jku": "https://attacker.example/keys", "x5u": "https://attacker.example"}
    assert refused("RS256", sign("ES256", private, claims(), own_key)) is Reason.ALGORITHM


def test_texts_that_are_no_jwt() -> None:
    good = token()
    head, content, mark = good.split(".")
    wrong: dict[str, Reason] = {
        "x": Reason.WRONG,
        "..": Reason.UNREADABLE,
        f"{good}.x": Reason.WRONG,
        f"{good}=": Reason.WRONG,
        f" {good}": Reason.WRONG,
        f"{head}.{content}.": Reason.SIGNATURE,
        f"{head}.{content}.{mark[:-2]}": Reason.UNREADABLE,
        f"{encoded(b'[]')}.{content}.{mark}": Reason.UNREADABLE,
        f"{encoded(b'[' * 9000)}.{content}.{mark}": Reason.UNREADABLE,
        f"{head}.{encoded(b'{}')}.{mark}": Reason.SIGNATURE,
        "a." * 9000: Reason.TOO_LONG,
    }
    for text, reason in wrong.items():
        assert refused("HS256", text) is reason, text[:80]
    extension: dict[str, Any]
    for extension in ({"crit": ["exp"]}, {"crit": []}, {"b64": False}):
        assert refused("HS256", sign("HS256", SECRET, claims(), extension)) is Reason.CRITICAL


def test_both_keys_are_taken_and_a_jwt_only_where_there_is_a_key_for_it() -> None:
    check = TokenCheck("the key", "the one before")
    for text in ("the key", "the one before"):
        assert check.check_request(f"Bearer {text}".encode(), (), "/")[0] is FULL
    for text in ("", "the ke", "the key ", token()):
        assert isinstance(check.check_request(b"Bearer " + text.encode() + b"x", (), "/")[0], Refusal)
    assert check.check_request(f"Bearer {token()}".encode(), (), "/")[0] == Refusal(Reason.WRONG)
    assert isinstance(TokenCheck("the key").check_request(None, (), "/?token=")[0], Refusal)


def test_the_first_place_with_a_token_is_the_only_one() -> None:
    in_protocol = [b"rsws", b"rsws.token." + encoded(b"p").encode()]

    def found(authorization: bytes | None, names: list[bytes], target: str) -> tuple[Source, tuple[str, ...], Any]:
        presented = find_token(authorization, names, target)
        return presented.source, presented.readings, presented.fault

    assert found(b"Bearer h", in_protocol, "/?token=u") == (Source.HEADER, ("h",), None)
    assert found(b"bEaReR   h", [], "/") == (Source.HEADER, ("h",), None)
    assert found(b"Bearer", in_protocol, "/?token=u") == (Source.HEADER, (), Reason.MISSING)
    assert found(b"Basic eDp5", in_protocol, "/?token=u") == (Source.SUBPROTOCOL, ("p",), None)
    assert found(None, [b"rsws"], "/?token=u") == (Source.URL, ("u", "u"), None)
    assert found(None, in_protocol[1:], "/?token=u") == (Source.URL, ("u", "u"), None)
    assert found(None, in_protocol[1:], "/") == (Source.SUBPROTOCOL, (), Reason.MISPLACED)
    assert found(None, [*in_protocol, b"rsws.token.eA"], "/?token=u") == (Source.SUBPROTOCOL, (), Reason.SEVERAL)
    assert found(None, [b"rsws", b"rsws.token."], "/?token=u") == (Source.SUBPROTOCOL, (), Reason.MISSING)
    for text in (b"e", b"eB", b"!!", b"_w"):
        assert found(None, [b"rsws", b"rsws.token." + text], "/?token=u") == (Source.SUBPROTOCOL, (), Reason.NOT_BASE64)
    assert "secret" not in repr(find_token(b"Bearer secret", (), "/"))


# --- files of keys ---


def test_a_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, seen = tmp_path / "key", []

    def use(text: str) -> None:
        read_keys(text)
        seen.append(text)

    path.write_text("a" * 32)
    file = KeyFile(path, "JWT key", use)
    file.refresh()
    other = tmp_path / "other"
    other.write_text("b" * 32 + "\n")
    os.replace(other, path)
    file.refresh()
    for bad in ("b" * 31, "", "{"):
        path.write_text(bad)
        file.refresh()
        file.refresh()
    path.unlink()
    file.refresh()
    assert seen == ["a" * 32, "b" * 32]
    assert len([each for each in caplog.records if "stays" in each.getMessage()]) == 4
    path.write_text("c" * 32)
    file.refresh(even_if_unchanged=True)
    assert seen[2:] == ["c" * 32]
    assert "bbbb" not in caplog.text
    with pytest.raises(RswsError):
        KeyFile(tmp_path / "none", "JWT key", use)


def test_what_the_settings_say_becomes_a_check(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("the secret key")
    (tmp_path / "previous").write_text("the previous key")
    settings = Settings(
        host="0.0.0.0",
        secret_key_file=tmp_path / "key",
        previous_secret_key_file=tmp_path / "previous",
        jwt_key=SECRET,
        jwt_issuer="i",
    )

    async def look() -> None:
        control = AccessControl.of(settings, "the secret key", Metrics())

        def lets_in(text: str) -> bool:
            return isinstance(control.check_token(text, Peer("peer", 1)), Grant)

        assert lets_in("the secret key")
        assert lets_in("the previous key")
        assert lets_in(token(iss="i"))
        assert not lets_in(token())
        (tmp_path / "key").write_text("a new secret key")
        (tmp_path / "previous").write_text("the secret key")
        control.reload()
        assert lets_in("a new secret key")
        assert lets_in("the secret key")
        assert not lets_in("the previous key")
        (tmp_path / "key").write_text("short")
        control.reload()
        assert lets_in("a new secret key")
        assert not lets_in("short")
        (tmp_path / "key").write_text("the secret key")

    asyncio.run(look())
    with pytest.raises(SetupError, match="previous secret key must have 8"):
        AccessControl.of(replace(settings, previous_secret_key="short"), "the secret key", Metrics())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_reads_the_keys_again_where_there_is_no_terminal(
    redis_server: RedisServer, tmp_path: Path, workers: str
) -> None:
    path = tmp_path / "jwt.key"
    path.write_text(SECRET)
    env = {"RSWS_JWT_KEY_FILE": str(path), "WEBSOCKET_SECRET_KEY": KEY, "REDIS_URL": redis_server.url}
    with RswsProcess("serve", "--port", "0", "--workers", workers, env=env) as serve:
        serve.wait_for("Try in another terminal")
        path.write_text("no key")
        serve.process.send_signal(signal.SIGHUP)
        serve.wait_for("the file of the JWT key is not used, what was in it before stays")
        path.write_text("another secret that is long enough")
        serve.process.send_signal(signal.SIGHUP)
        serve.wait_for("the file of the JWT key was read again")
        assert serve.stop() == 0
    assert "another secret" not in serve.output()
    assert SECRET not in serve.output()


# --- ends ---


class Holder(TokenHolder):
    def __init__(self) -> None:
        self.told: list[str] = []

    def token_expiring(self) -> None:
        self.told.append("expiring")

    def token_ended(self) -> None:
        self.told.append("ended")


def test_a_bug_of_one_holder_is_none_of_the_others() -> None:
    class Broken(Holder):
        def token_expiring(self) -> None:
            raise ZeroDivisionError

        def token_ended(self) -> None:
            raise ZeroDivisionError

    async def look() -> None:
        now = 1000.0
        ends = Ends(clock=lambda: now)
        broken, holder = Broken(), Holder()
        for each, expires_at in ((broken, 1010.0), (holder, 1020.0)):
            ends.watch(each, Grant({}, expires_at=expires_at, ends_at=expires_at))
        now = 1015.0
        ends.tell_due()
        assert holder.told == ["expiring"]
        now = 1020.0
        ends.tell_due()
        assert holder.told == ["expiring", "ended"]

    asyncio.run(look())


def test_holders_are_told_before_the_end_and_at_it() -> None:
    async def look() -> None:
        now = 1000.0
        ends = Ends(clock=lambda: now)
        long, short, renewed, gone = (Holder() for _ in range(4))
        ends.watch(long, Grant({}, ends_at=1600))
        for holder in (short, renewed, gone):
            ends.watch(holder, Grant({}, ends_at=1100))
        ends.watch(renewed, FULL)
        ends.forget(gone)
        steps: dict[float, list[str]] = {
            1049.0: [],
            1051.0: ["expiring"],
            1099.0: ["expiring"],
            1100.0: ["expiring", "ended"],
        }
        for now in steps:
            ends.tell_due()
            assert short.told == steps[now]
        now = 1539.0
        ends.tell_due()
        assert not long.told
        now = 1540.0
        ends.tell_due()
        now = 1700.0
        ends.tell_due()
        assert long.told == ["expiring", "ended"]
        assert not renewed.told
        assert not gone.told
        assert len(ends) == ends.kept == 0

    asyncio.run(look())


def test_clients_that_come_and_go_leave_nothing_and_many_ends_take_turns() -> None:
    async def look() -> None:
        now = 0.0
        ends = Ends(clock=lambda: now)
        stays = Holder()
        ends.watch(stays, Grant({}, ends_at=1e9))
        for _ in range(5000):
            holder = Holder()
            ends.watch(holder, Grant({}, ends_at=1e6))
            ends.forget(holder)
            assert ends.kept < 200
        many = [Holder() for _ in range(3 * AT_ONCE)]
        for each in many:
            ends.watch(each, Grant({}, ends_at=500))
        now = 500.0
        ends.tell_due()
        assert sum(bool(each.told) for each in many) == AT_ONCE
        while len(ends) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert all(each.told == ["ended"] for each in many)
        ends.forget(stays)

    asyncio.run(look())


def test_one_that_slept_over_the_warning_is_told_of_the_end_alone() -> None:
    async def look() -> None:
        now = 0.0
        ends, holder = Ends(DEFAULTS, lambda: now), Holder()
        ends.watch(holder, Grant({}, ends_at=100))
        now = 1000.0
        ends.tell_due()
        assert holder.told == ["ended"]

    asyncio.run(look())


# --- any of them ---

TOKENS = 600
"""As many as find the check that is too kind; ``prove.py fuzz`` takes more."""


@pytest.mark.parametrize("seed", ["fixed", random.SystemRandom().getrandbits(32)], ids=["a fixed seed", "a fresh seed"])
def test_no_wrong_token_is_let_in_or_raises(seed: object) -> None:
    failures = fuzz_tokens.search(seed, TOKENS)
    assert not failures, "\n".join(failures)


def test_the_search_finds_a_check_that_is_too_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SignedTokens, "_fault", lambda self, claims: None)
    assert fuzz_tokens.search("fixed", TOKENS)
