"""The client and TLS: which certificates it trusts, and what it says of one that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.gateway import KEY, async_test, gateway
from kit.support import RedisServer
from kit.tls import Authority
from rsws import CannotConnect, connect


@async_test
async def test_whom_it_trusts(redis_server: RedisServer, tmp_path: Path, channel: str) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    async with gateway(redis_server.url, tls_cert=certificate, tls_key=key) as server:
        by_name = server.url.replace("127.0.0.1", "localhost")
        async with connect(by_name, token=KEY, ssl=authority.trusted) as client:
            await client.publish(channel, 1)
            async for message in client.subscribe(channel, after="0"):
                assert message.data == 1
                break
        with pytest.raises(CannotConnect, match=r"can't be trusted: unable to get.*--ca \(in Python: ssl=\)"):
            async with connect(by_name, token=KEY):
                pass
        with pytest.raises(
            CannotConnect, match=r"IP address mismatch.*connect to the name that the certificate is for"
        ):
            async with connect(server.url, token=KEY, ssl=authority.trusted):
                pass


@async_test
async def test_without_tls_it_has_no_effect(redis_server: RedisServer, tmp_path: Path) -> None:
    async with (
        gateway(redis_server.url) as server,
        connect(server.url, token=KEY, ssl=Authority(tmp_path).trusted) as client,
    ):
        assert await client.ping() < 10
