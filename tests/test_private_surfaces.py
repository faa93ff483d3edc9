"""What rsws uses of redis-py and websockets that their documentation does not promise.

Any release may change these, a major one will: that is why pyproject.toml caps the majors of both. Before a cap is
raised, this file says what to look at.
"""

from __future__ import annotations

import _ssl
import asyncio
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import GeneratorType
from typing import Any

import pytest
import trustme
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import AuthenticationError
from typer._completion_classes import ZshComplete
from typer._completion_shared import _completion_scripts
from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode, apply_mask  # type: ignore[attr-defined]
from websockets.protocol import Protocol, Side, State
from websockets.proxy import get_proxy
from websockets.server import ServerProtocol
from websockets.uri import parse_uri
from websockets.utils import accept_key

from rsws.cli import completing

PYPROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())


@pytest.mark.parametrize("library", ["redis", "websockets"])
def test_the_major_is_capped_behind_the_one_that_is_tested(library: str) -> None:
    [needed] = [each for each in PYPROJECT["project"]["dependencies"] if each.startswith(f"{library}>=")]
    cap = re.search(r",<(\d+)$", needed)
    assert cap is not None
    assert int(version(library).partition(".")[0]) < int(cap[1])


def test_python_reads_the_certificate_of_a_file(tmp_path: Path) -> None:
    """rsws.certificates asks for names and dates; no public function has them without a connection."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    said = _ssl._test_decode_cert(tmp_path / "ca.pem")  # type: ignore[attr-defined]
    assert {"subject", "issuer", "notBefore", "notAfter"} <= said.keys()


def test_redis_py_keeps_the_streams_of_a_connection_under_these_names() -> None:
    """rsws.redis.connection takes them over once redis-py has logged in."""
    connection: AbstractConnection = Connection()
    assert connection._reader is None
    assert connection._writer is None


def test_redis_py_reads_an_address_into_arguments_of_a_connection() -> None:
    """rsws.redis.link makes connections of its own of them, with no pool."""
    arguments: dict[str, Any] = dict(parse_url("rediss://user:secret@host:1/2"))
    connection_class = arguments.pop("connection_class")
    assert issubclass(connection_class, AbstractConnection)
    connection = connection_class(**arguments, driver_info=None)
    assert (connection.host, connection.port, connection.db) == ("host", 1, 2)
    assert parse_url("unix:///a/socket")["path"] == "/a/socket"


def test_redis_py_takes_the_code_off_an_error_and_keeps_it_there() -> None:
    """rsws.redis.link puts it in front again."""
    error = AuthenticationError("invalid password", status_code="WRONGPASS")
    assert (str(error), error.status_code) == ("invalid password", "WRONGPASS")


def test_websockets_unmasks() -> None:
    """rsws.frames reads a client's messages with it: it is in C where websockets was built with its speedups."""
    assert apply_mask(b"\1\2\3\4\5", b"\1\2\3\4") == b"\0\0\0\0\4"


def test_websockets_has_the_state_of_a_protocol_under_these_names() -> None:
    """rsws.gateway.websocket.protocols makes one for an open connection, and breaks its cycles afterwards."""
    protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=1000)
    assert protocol.extensions == []
    assert isinstance(protocol.parser, GeneratorType)
    assert protocol.parser_exc is None
    assert protocol.handshake_exc is None
    assert protocol.close_rcvd is None
    assert protocol.close_sent is None
    protocol.receive_data(Frame(Opcode.TEXT, b"not masked").serialize(mask=False))
    assert protocol.parser_exc is not None


def test_websockets_agrees_on_extensions_apart_from_a_handshake() -> None:
    """rsws.gateway.websocket.protocols has only that done by it, and rsws.gateway.websocket.compression the window."""
    assert callable(ServerProtocol.process_extensions)
    extension = PerMessageDeflate(
        remote_no_context_takeover=False,
        local_no_context_takeover=True,
        remote_max_window_bits=15,
        local_max_window_bits=12,
    )
    assert extension.local_max_window_bits == 12


def test_websockets_has_these_helpers() -> None:
    """For the handshake of rsws.gateway.websocket.handshake, rsws.client.address and rsws.bench."""
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3
    address = parse_uri("ws://host:1/path")
    assert (address.host, address.port) == ("host", 1)
    assert callable(get_proxy)


def test_websockets_hands_each_event_of_a_connection_to_one_method() -> None:
    """rsws.client.address counts there what pings have it send, while the transport has no room."""

    async def look() -> None:
        connection = ClientConnection(ClientProtocol(parse_uri("ws://host/")))
        assert connection.paused is False
        assert callable(connection.process_event)
        assert callable(connection.resume_writing)
        connection.protocol.receive_eof()

    asyncio.run(look())


def test_typer_keeps_its_scripts_for_shells_and_finds_what_comes_next() -> None:
    """rsws.cli.completing puts its own in their place; without them no shell completes, and all else works."""
    assert completing.SHELLS.keys() <= _completion_scripts.keys()
    assert {"get_completion_args", "get_completions"} <= set(dir(ZshComplete))
