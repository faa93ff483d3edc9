"""Requests with tokens that are wrong in some way: none of them raises an exception, and none lets anybody in.

PYTHONPATH=tests python -m kit.fuzz_tokens 100000 [SEED]
"""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from typing import Any
from urllib.parse import quote

from kit.gateway import handshake
from kit.tokens import KINDS, SECRET, claims, encoded, pair, sign, token
from rsws.gateway.access.presented import Presented, Source
from rsws.gateway.access.tokens import TokenCheck
from rsws.gateway.http import Request, RequestReader
from rsws.gateway.websocket.handshake import Opening, answer_handshake
from rsws.settings import Settings
from rsws.tokens.grant import Grant
from rsws.tokens.keys import read_keys
from rsws.tokens.signed import SignedTokens

KEY, PREVIOUS = "the secret key", "the key before"
ALPHABET = "ABCXYZabcxyz0189-_"
ODD: list[Any] = [None, True, False, 0, -1, 1.5, 2**70, 1e308, "", "x", "1e9", [], ["r"], {}, {"a": "r"}, "\ud800", "é"]


def checks() -> dict[str, TokenCheck]:
    """A gateway's check for each kind of key."""
    return {
        kind: TokenCheck(KEY, PREVIOUS, signed=SignedTokens(read_keys(pair(kind).public), "rsws", "issuer"))
        for kind in KINDS
    }


def good_claims(chance: random.Random) -> dict[str, Any]:
    return claims(aud=chance.choice(["rsws", ["x", "rsws"]]), iss="issuer", nbf=time.time() - 5)


def changed_text(text: str, chance: random.Random) -> str:
    """Another text than this one, in a header, too, which is without the white space around it."""
    changed = _changed(text, chance)
    return changed if changed.strip() != text else text + "x"


def _changed(text: str, chance: random.Random) -> str:
    at = chance.randrange(len(text))
    match chance.randrange(6):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + text[at + 1 :]
        case 2:
            return text[:at] + chance.choice(ALPHABET + ".=+/ %\0é\udcff") + text[at:]
        case 3:
            others = [each for each in ALPHABET if each != text[at]]
            return text[:at] + chance.choice(others) + text[at + 1 :]
        case 4:
            return text + chance.choice(["=", ".", ".x", " ", "\n", text])
        case _:
            swapped = text.swapcase()
            return swapped if swapped != text else text + "x"


def wrong_claims(chance: random.Random) -> Any:
    """A content that no right signature makes right."""
    made, now = good_claims(chance), time.time()
    match chance.randrange(10):
        case 0:
            del made["exp"]
        case 1:
            made["exp"] = chance.choice([now - 31, now - 1e6, 0, -1, now * 1000, *ODD])
        case 2:
            made["nbf"] = chance.choice([now + 40, now + 1e6, "x", True, [], now * 1000, -1])
        case 3:
            made["iat"] = chance.choice([now + 40, now + 1e6, "x", True, [], now * 1000, -1])
        case 4:
            made["aud"] = chance.choice(["other", ["other"], "", [], None, 1, {}, ["rsws", 1], "RSWS", "rsws "])
        case 5:
            made["iss"] = chance.choice(["other", "", None, 1, ["issuer"], "issuer "])
        case 6:
            made["channels"] = chance.choice(
                [None, "rw", [], 1, {"a": "x"}, {"a": "wr"}, {"a": ""}, {"a": None}, {"a": 1}]
            )
        case 7:
            made["sub"] = chance.choice([1, True, [], {}])
        case 8:
            return chance.choice([b"", b"null", b"[]", b'"x"', b"\xff", b"[" * 5000, b"{" * 10, b'{"exp":NaN}', b"1"])
        case _:
            return json.dumps(made).encode()[:-1]
    return made


def wrong_token(kind: str, chance: random.Random) -> str:
    """A token that a gateway with a key of this kind must refuse."""
    keys = pair(kind)
    key_id: dict[str, Any] = {} if keys.key_id is None else {"kid": keys.key_id}
    good = good_claims(chance)
    match chance.randrange(9):
        case 0 | 1:
            return changed_text(sign(keys.algorithm, keys.private, good, key_id), chance)
        case 2:  # a public key as a secret, as it stands or nearly
            text = keys.public if kind != "HS256" else "another secret that is as long as the right one"
            secret = chance.choice([text, text.strip(), text + "\n", "", text.replace("\n", "")])
            return sign(chance.choice(["HS256", "HS384", "HS512"]), secret, good, key_id)
        case 3:
            name = chance.choice(["none", "None", "NONE", "", "nOnE", "HS256 ", "hs256", "RS256", "PS256", "ES256K"])
            return sign("none", "", good, key_id | {"alg": name})
        case 4:  # another algorithm with a key of its own
            other = pair(chance.choice([each for each in ("RS256", "ES256", "EdDSA") if each != keys.algorithm]))
            if kind == "JWKS":
                return sign(other.algorithm, other.private, good, key_id)
            return sign(other.algorithm, other.private, good, key_id | {"alg": chance.choice([keys.algorithm, "none"])})
        case 5:
            ids: list[Any] = ["", "x", "../../dev/null", "' OR 1=1", "oct", "for encryption", "\0", *ODD]
            kid = chance.choice(ids)
            if kind != "JWKS":
                return sign(keys.algorithm, b"x" * 40 if kind == "HS256" else keys.private, good, {"kid": 1})
            return sign(keys.algorithm, keys.private, good, {"kid": kid})
        case 6:
            extra: dict[str, Any] = chance.choice(
                [{"crit": ["exp"]}, {"b64": False}, {"crit": []}, {"b64": True}, {"crit": ["b64"]}]
            )
            return sign(keys.algorithm, keys.private, good, key_id | extra)
        case 7:
            return sign(keys.algorithm, keys.private, wrong_claims(chance), key_id)
        case _:
            junk = "".join(chance.choices(ALPHABET + ".=%+ ", k=chance.randrange(60)))
            return chance.choice([junk, "..", "a.b.c", KEY[:-1], KEY + "x", PREVIOUS.upper(), "", "x" * 20_000, SECRET])


def request(text: str, is_good: bool, chance: random.Random) -> bytes:
    """A handshake with a token in some place: a wrong one anywhere, a right one where nobody looks."""
    in_header = text.encode(errors="surrogateescape").replace(b"\r", b"").replace(b"\n", b"").decode("latin-1")
    in_url = quote(text, safe="", errors="replace")
    in_protocol = encoded(text.encode(errors="replace"))
    if is_good:
        path, lines = chance.choice(
            [
                (f"/{in_url}", ""),
                (f"/?Token={in_url}", ""),
                (f"/?access_token={in_url}", ""),
                (f"/?token=&token={in_url}", ""),
                (f"/?x=1;token={in_url}", ""),
                ("/", f"Cookie: token={in_header}\r\n"),
                ("/", f"X-Token: {in_header}\r\n"),
                ("/", f"Authorization: Basic {in_header}\r\n"),
                ("/", f"Authorization: {in_header}\r\n"),
                ("/", f"Authorization: Bearer\t{in_header}\r\n"),
                ("/", f"Authorization: Bearer x, Bearer {in_header}\r\n"),
                ("/", f"Authorization: Bearer x\r\nAuthorization: Bearer {in_header}\r\n"),
                ("/", f"Sec-WebSocket-Protocol: rsws.token.{in_protocol}\r\n"),
                ("/", f"Sec-WebSocket-Protocol: RSWS, rsws.token.{in_protocol}\r\n"),
                ("/", f"Sec-WebSocket-Protocol: rsws, RSWS.token.{in_protocol}\r\n"),
                ("/", f"Sec-WebSocket-Protocol: rsws, {in_protocol}\r\n"),
                ("/", f"Sec-WebSocket-Protocol: rsws, rsws.token.x, rsws.token.{in_protocol}\r\n"),
                (f"/?token={in_url}", "Authorization: Bearer wrong\r\n"),
                (f"/?token={in_url}", "Authorization: Bearer\r\n"),
                (f"/?token={in_url}", "Sec-WebSocket-Protocol: rsws, rsws.token.d3Jvbmc\r\n"),
            ]
        )
    else:
        path, lines = chance.choice(
            [
                (f"/?token={in_url}", ""),
                (f"/ws?x=1&token={in_url}&y", ""),
                ("/", f"Authorization: Bearer {in_header}\r\n"),
                ("/", f"authorization: bEARER   {in_header}\r\n"),
                ("/", f"Sec-WebSocket-Protocol: rsws, rsws.token.{in_protocol}\r\n"),
                ("/", f"Sec-WebSocket-Protocol: chat, rsws.token.{in_protocol}, rsws\r\n"),
                (f"/?token={in_url}", f"Authorization: Bearer {in_header}\r\n"),
            ]
        )
    return handshake(path, lines).decode().encode("latin-1", errors="replace")


def accepted(check: TokenCheck, data: bytes) -> bool:
    """Whether a request lets its client in, if it is one."""
    read = RequestReader(Settings().max_header_bytes).read(data)
    if not isinstance(read, Request):
        return False
    opening = answer_handshake(read, ())
    if not isinstance(opening, Opening):
        return False
    assert b"rsws.token" not in opening.answer.lower()
    answer, _ = check.check_request(read.headers.get(b"authorization"), opening.subprotocols, read.target)
    return isinstance(answer, Grant)


def search(seed: object, count: int) -> list[str]:
    """What was let in, or raised an exception, as far as it was."""
    chance = random.Random(str(seed))
    by_kind = checks()
    failures = []
    for number in range(count):
        kind = chance.choice(KINDS)
        is_good = chance.random() < 0.1
        text = chance.choice([KEY, PREVIOUS, token(kind, aud="rsws", iss="issuer")]) if is_good else ""
        text = text or wrong_token(kind, chance)
        try:
            data = request(text, is_good, chance)
            let_in = accepted(by_kind[kind], data)
            if not is_good:  # as it comes in a request of an open connection
                plain = text.encode("utf-8", "replace").decode()
                let_in |= isinstance(by_kind[kind].check(Presented(Source.REQUEST, (plain,))), Grant)
        except Exception as error:
            failures.append(f"{seed}/{number}: {kind} {text[:2000]!r}: {error!r}")
            logging.exception("an exception")
        else:
            if let_in:
                failures.append(f"{seed}/{number}: {kind} {text[:2000]!r} was let in by {data!r}")
        if len(failures) > 5:
            break
    return failures


if __name__ == "__main__":
    used = sys.argv[2] if len(sys.argv) > 2 else str(random.SystemRandom().getrandbits(32))
    found = search(used, int(sys.argv[1]))
    print(f"seed {used}: {sys.argv[1]} requests, {len(found)} failures", *found, sep="\n")
    sys.exit(bool(found))
