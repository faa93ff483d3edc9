"""TLS at the gateway's own port: the same to who speaks it, and no more than a closed connection to who does not."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kit.gateway import (
    KEY,
    WELCOME,
    Wire,
    add,
    async_test,
    connect,
    first_frame,
    gateway,
    handshake,
    request,
    until,
)
from kit.metrics import parse
from kit.support import RedisServer
from kit.tls import Authority
from rsws.errors import UsageError
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.process.single import SingleProcess
from rsws.gateway.websocket.tls import TlsTransport

pytestmark = pytest.mark.usefixtures("event_loop_kind")

LIMITS = replace(DEFAULTS, key_files_check_s=0.01)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def files(authority: Authority) -> dict[str, Any]:
    return dict(zip(("tls_cert", "tls_key"), authority.issue("localhost"), strict=True))


class TlsWire:
    """A client of bytes that speaks TLS, and reads when it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @property
    def certificate(self) -> bytes:
        tls: ssl.SSLObject = self.writer.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True) or b""


@asynccontextmanager
async def tls_wire(
    server: SingleProcess, context: ssl.SSLContext, receive_buffer_bytes: int = 65536
) -> AsyncIterator[TlsWire]:
    tcp = socket.socket()
    tcp.setblocking(False)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    await asyncio.get_running_loop().sock_connect(tcp, ("127.0.0.1", int(server.url.rpartition(":")[2])))
    reader, writer = await asyncio.open_connection(sock=tcp, ssl=context, server_hostname="localhost", limit=4096)
    try:
        yield TlsWire(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@async_test
async def test_it_is_as_without(redis_server: RedisServer, channel: str, authority: Authority) -> None:
    tls = authority.trusted
    tls.set_alpn_protocols(["h2", "http/1.1"])
    async with gateway(redis_server.url, **files(authority)) as server:
        assert server.url.startswith("wss://127.0.0.1:")
        async with connect(server, ssl=tls, server_hostname="localhost") as client:
            spoken = client.websocket.transport.get_extra_info("ssl_object")
            assert (spoken.version(), spoken.selected_alpn_protocol(), spoken.compression()) == (
                "TLSv1.3", "http/1.1", None,
            )  # fmt: skip
            await client.subscribe(channel, lastMessageId="0")
            big = "x" * 900_000
            await client.send(action="publish", channel=channel, data=big, messageId="1")
            frames = [await client.next(), await client.next()]
            assert {each.get("status") or each["event"] for each in frames} == {"ack", "message"}
            assert next(each["data"] for each in frames if "data" in each) == big
            await client.websocket.ping()
            await client.websocket.close(4321, "bye")
            assert client.websocket.close_code == 4321
        async with connect(server, "/?token=wrong", welcome=False, ssl=tls, server_hostname="localhost") as client:
            await client.expect('{"error":"Unauthorized","status":401}')
            assert await client.closed() == (1008, "Unauthorized")


@async_test
async def test_the_chain_is_sent_and_an_old_version_refused(redis_server: RedisServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path, intermediate=True)
    async with gateway(redis_server.url, **files(authority)) as server:
        async with connect(server, ssl=authority.trusted, server_hostname="localhost"):
            pass
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(authority.ca)
        old.set_ciphers("DEFAULT:@SECLEVEL=0")

        def spoken() -> str | None:
            with (
                socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 5) as tcp,
                old.wrap_socket(tcp, server_hostname="localhost") as tls,
            ):
                return tls.version()

        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await asyncio.to_thread(spoken) == "TLSv1.2"
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
            await asyncio.to_thread(spoken)


@async_test
async def test_it_ends_as_tls_and_tcp_should(redis_server: RedisServer, authority: Authority) -> None:
    """A close of TLS that comes before the close of TCP says that nothing was cut off."""
    async with gateway(redis_server.url, **files(authority)) as server:
        strict = authority.trusted

        def answer() -> bytes:
            with (
                socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 5) as tcp,
                strict.wrap_socket(tcp, server_hostname="localhost", suppress_ragged_eofs=False) as tls,
            ):
                tls.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 10_000)
                return b"".join(iter(partial(tls.recv, 65536), b""))

        said = await asyncio.to_thread(answer)
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")
        assert said.endswith(b"ok\n")
        async with tls_wire(server, authority.trusted) as wire:
            wire.writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            told = (await wire.reader.read()).decode()
            assert parse(told.partition("\r\n\r\n")[2]).values["rsws_tls_failures_total"] == 0
        async with tls_wire(server, authority.trusted) as wire:  # the client ends it
            wire.writer.write(handshake(f"/?token={KEY}"))
            await wire.reader.readuntil(WELCOME.encode())
            wire.writer.close()
            await until(lambda: not len(server.server.clients), "the connection to be gone")


class Counted(ssl.SSLObject):
    """One of the gateway's."""


@async_test
async def test_what_a_connection_had_is_freed_at_its_end(redis_server: RedisServer, authority: Authority) -> None:
    async with gateway(redis_server.url, **files(authority)) as server:
        assert server.server._entrance.certificate is not None
        server.server._entrance.certificate.context.sslobject_class = Counted
        gc.disable()  # it costs 17 KB, which should not wait for a collection
        try:
            async with connect(server, ssl=authority.trusted, server_hostname="localhost"):
                assert [each for each in gc.get_objects() if type(each) is Counted]
            await until(lambda: not [each for each in gc.get_objects() if type(each) is Counted], "its end")
        finally:
            gc.enable()


async def send_in_tls(wire: Wire, context: ssl.SSLContext, data: bytes) -> None:
    """Make the handshake of TLS over a bare connection, and send ``data`` in it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            await wire.send(outgoing.read())
            incoming.write(await wire.read_some())
    tls.write(data)
    await wire.send(outgoing.read())


@async_test
async def test_what_a_refused_client_sends_is_not_read_for_ever(
    redis_server: RedisServer, authority: Authority
) -> None:
    async with gateway(redis_server.url, **files(authority)) as server, Wire(server) as wire:
        await send_in_tls(wire, authority.trusted, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        [connection] = server.server.clients
        await until(lambda: connection.ignores_input, "the answer")
        await wire.send(b"x" * 200_000)
        assert isinstance(connection.transport, TlsTransport)
        tcp = connection.transport._tcp
        await until(lambda: not tcp.is_reading(), "the end of the reading")
        assert not tcp.is_closing()


class PartialWriter(ssl.SSLObject):
    """Takes a part of what is written, as it may."""

    def write(self, data: Any) -> int:
        return super().write(memoryview(data)[:1000])


@async_test
async def test_a_write_in_parts(redis_server: RedisServer, channel: str, authority: Authority) -> None:
    async with gateway(redis_server.url, **files(authority)) as server:
        assert server.server._entrance.certificate is not None
        server.server._entrance.certificate.context.sslobject_class = PartialWriter
        add(redis_server, channel, f'"{"x" * 10_500}"')
        async with connect(server, ssl=authority.trusted, server_hostname="localhost") as client:
            await client.subscribe(channel, lastMessageId="0")
            assert (await client.message(channel))[1] == "x" * 10_500
            await client.nothing_more()


@async_test
async def test_a_slow_client_costs_no_memory(redis_server: RedisServer, channel: str, authority: Authority) -> None:
    data = "x" * 10_000
    expected = add(redis_server, channel, *[f'"{data}"'] * 800)
    async with (
        gateway(redis_server.url, **files(authority)) as server,
        tls_wire(server, authority.trusted, 4096) as wire,
    ):
        wire.writer.write(handshake(f"/?token={KEY}") + request(action="subscribe", channel=channel, lastMessageId="0"))
        await until(lambda: server.server.clients.sessions, "the client")
        [connection] = server.server.clients.sessions
        assert isinstance(connection.transport, TlsTransport)
        await until(lambda: not connection.has_room, "a full buffer")
        for _ in range(50):
            await asyncio.sleep(0)
            assert connection.buffered_bytes < 500_000
        received = await wire.reader.readuntil(b"\r\n\r\n")
        ids: list[str] = []
        received = b""
        while len(ids) < len(expected):
            async with asyncio.timeout(10):
                received += await wire.reader.read(1 << 20)
            start = 0
            while (found := first_frame(received, start)) is not None:
                _, payload, start = found
                if b'"streamId"' in payload:
                    ids.append(payload.partition(b'"streamId":"')[2].partition(b'"')[0].decode())
            received = received[start:]
        assert ids == expected


# --- who does not speak it ---


@async_test
async def test_plain_http_is_closed_quietly(
    redis_server: RedisServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rsws.gateway")
    async with gateway(redis_server.url, **files(authority)) as server:
        for sent in (handshake(f"/?token={KEY}"), b"\x16\x03\x01\x00\x05hello", b"\0" * 100, os.urandom(1000)):
            async with Wire(server) as wire:
                await wire.send(sent)
                await wire.read_to_end()
        await until(lambda: not len(server.server.clients), "the connections to be gone")
        assert server.server.board.metrics.tls_failures == 4
        lines = [each for each in caplog.records if "TLS failed" in each.message]
        assert len(lines) == 4
        assert 'reason="http request"' in lines[0].message
        assert not [each for each in caplog.records if each.levelno > logging.INFO or each.exc_info]
        async with connect(server, ssl=authority.trusted, server_hostname="localhost"):
            pass


@async_test
async def test_a_broken_record_ends_an_open_connection(redis_server: RedisServer, authority: Authority) -> None:
    async with gateway(redis_server.url, **files(authority)) as server, Wire(server) as wire:
        await send_in_tls(wire, authority.trusted, handshake(f"/?token={KEY}"))
        await until(lambda: server.server.clients.sessions, "the client")
        await wire.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        await wire.read_to_end()
        await until(lambda: not len(server.server.clients), "the connection to be gone")
        assert server.server.board.metrics.tls_failures == 1


@async_test
async def test_a_broken_record_while_something_is_to_be_written(
    redis_server: RedisServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        gateway(redis_server.url, **files(authority)) as server,
        connect(server, ssl=authority.trusted, server_hostname="localhost"),
    ):
        [connection] = server.server.clients.sessions
        connection.reply(b"{}")
        assert isinstance(connection.transport, TlsTransport)
        connection.transport.data_received(b"no record of TLS")
        await until(lambda: not server.server.clients.sessions)
    assert not [each for each in caplog.records if each.exc_info]


@async_test
async def test_the_handshake_has_a_deadline_and_counts_at_the_door(
    redis_server: RedisServer, authority: Authority
) -> None:
    async with gateway(redis_server.url, handshake_timeout_s=0.2, **files(authority)) as server:
        async with Wire(server) as silent, Wire(server) as half:
            await half.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            await until(lambda: server.server.clients.at_the_door == 2, "both at the door")
            assert await silent.read_to_end() == await half.read_to_end() == b""
        assert server.server.board.metrics.tls_failures == 0


# --- the files ---


def put(source: dict[str, Path], target: dict[str, Path]) -> None:
    for name, path in target.items():
        os.replace(source[name], path)


@async_test
async def test_a_new_certificate_is_taken_and_no_connection_lost(
    redis_server: RedisServer, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    used = files(authority)
    (tmp_path / "next").mkdir()
    renewed = Authority(tmp_path / "next")
    async with (
        gateway(redis_server.url, LIMITS, **used) as server,
        connect(server, ssl=authority.trusted, server_hostname="localhost") as client,
    ):
        put(files(renewed), used)
        async with asyncio.timeout(10):
            while True:
                try:
                    async with connect(server, ssl=renewed.trusted, server_hostname="localhost"):
                        break
                except ssl.SSLCertVerificationError:
                    await asyncio.sleep(0.01)
        caplog.clear()
        used["tls_cert"].write_text("nonsense")
        await until(lambda: "is not used" in caplog.text, "the line about it")
        await asyncio.sleep(5 * LIMITS.key_files_check_s)
        assert caplog.text.count("is not used, what was in it before stays") == 1
        assert "has no certificate in PEM format" in caplog.text
        async with connect(server, ssl=renewed.trusted, server_hostname="localhost"):
            pass
        await client.nothing_more()


@async_test
async def test_it_is_read_again_when_the_operator_says_so(
    redis_server: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    used = files(authority)
    (tmp_path / "next").mkdir()
    renewed = Authority(tmp_path / "next")
    async with gateway(redis_server.url, **used) as server:
        put(files(renewed), used)
        server.reload_keys()
        async with connect(server, ssl=renewed.trusted, server_hostname="localhost"):
            pass


@async_test
async def test_an_expired_certificate_is_said(
    redis_server: RedisServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    certificate, key = authority.issue("localhost", not_after=end)
    async with gateway(redis_server.url, tls_cert=certificate, tls_key=key):
        pass
    [line] = [each.message for each in caplog.records if "certificate" in each.message]
    assert line == f"the TLS certificate in {certificate} has expired on {end:%Y-%m-%d %H:%M:%S} UTC; " + (
        "clients will refuse it"
    )


@async_test
async def test_both_may_be_in_one_file(redis_server: RedisServer, authority: Authority, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text("".join(path.read_text() for path in authority.issue("localhost")))
    async with (
        gateway(redis_server.url, tls_cert=both) as server,
        connect(server, ssl=authority.trusted, server_hostname="localhost"),
    ):
        pass


BAD = ["no certificate", "no key", "certificate is no PEM", "key is no PEM", "key of another", "encrypted", "key alone"]


@pytest.mark.parametrize("name", BAD)
@async_test
async def test_a_file_that_can_not_be_used(
    name: str, redis_server: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("localhost")
    other, gone = tmp_path / "other", tmp_path / "gone"
    other.write_text("nonsense")
    encrypted = tmp_path / "encrypted"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "no certificate": ({"tls_cert": gone, "tls_key": key}, f"TLS certificate, {gone}, can't be read: No such file"),
        "no key": ({"tls_cert": certificate, "tls_key": gone}, f"TLS key, {gone}, can't be read: No such file"),
        "certificate is no PEM": ({"tls_cert": other, "tls_key": key}, f"{other}, has no certificate in PEM format"),
        "key is no PEM": ({"tls_cert": certificate, "tls_key": other}, f"{other}, has no private key in PEM format$"),
        "key of another": (
            {"tls_cert": certificate, "tls_key": authority.issue("example.org")[1]},
            f"it is not that of the certificate in {certificate}",
        ),
        "encrypted": ({"tls_cert": certificate, "tls_key": encrypted}, f"{encrypted}, can't be used: it is encrypted"),
        "key alone": ({"tls_key": key}, "--tls-key needs --tls-cert"),
    }
    settings, text = cases[name]
    with pytest.raises(UsageError, match=text):
        async with gateway(redis_server.url, **settings):
            pass
    if name == "no key":
        with pytest.raises(UsageError, match="name the key's own file with --tls-key"):
            async with gateway(redis_server.url, tls_cert=certificate):
                pass
