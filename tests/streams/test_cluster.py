"""What is known of a cluster, and what is written straight to one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from kit.cli import run_main
from kit.cluster import Cluster
from rsws.errors import RedisUnavailable, StoreError
from rsws.protocol import StreamId
from rsws.redis.connection import ReplyError
from rsws.redis.target import RedisTarget
from rsws.redis.url import parse_redis_url
from rsws.streams.publisher import Publisher
from rsws.streams.slots import Patience, Redirected, Slots, parse_slots, slot_of, slot_tag


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


def test_the_slot_of_a_key(cluster: Cluster) -> None:
    for key in ("news", "{user}.1", "{user}.2", "a{}b", "}{x}{y}", "{", "é", "", "{unclosed"):
        assert slot_of(key) == cluster.servers[0].call("CLUSTER", "KEYSLOT", key), key
        tagged = b"rsws:once:{%b}:1" % slot_tag(key.encode())
        assert cluster.servers[0].call("CLUSTER", "KEYSLOT", tagged) == slot_of(key), key


def test_the_map() -> None:
    reply = [[0, 99, [b"10.0.0.1", 6379, b"id"], [b"10.0.0.2", 6380, b"id", []]], [100, 199, [b"", 6381, b"id"]]]
    assert parse_slots(reply, "here") == [
        Slots(0, 99, ("10.0.0.1", 6379), (("10.0.0.2", 6380),)),
        Slots(100, 199, ("here", 6381), ()),
    ]
    assert parse_slots([[0, 1, [None, 1, b"id"]], [2, 3, [b"?", 2, b"id"]]], "here")[1].primary == ("here", 2)
    for wrong in (None, [1], [[0]], [[0, 1, 2]]):
        with pytest.raises(RedisUnavailable) as caught:
            parse_slots(wrong, "here")
        assert "no map of a cluster" in caught.value.cause


@pytest.mark.parametrize(
    ("text", "address", "is_ask"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("127.0.0.1", 6381), False),
        ("ASK 3999 node.example:6381", ("node.example", 6381), True),
        ("MOVED 3999 :6381", ("", 6381), False),
        ("MOVED 3999 ?:6381", ("", 6381), False),  # a node without the hostname that it is to be called by
        ("MOVED 3999 fe80::1:6381", ("fe80::1", 6381), False),
        ("TRYAGAIN Multiple keys request during rehashing of slot", None, False),
        ("CLUSTERDOWN The cluster is down", None, False),
    ],
)
def test_a_redirect(text: str, address: tuple[str, int] | None, is_ask: bool) -> None:
    redirect = Redirected(text)
    assert (redirect.address, redirect.is_ask) == (address, is_ask)
    assert redirect.code == ("redis_refused" if address else "redis_unavailable")


def test_redirects_are_followed_at_once_then_slowly_and_not_for_ever() -> None:
    patience = Patience(limit_s=0)
    redirect = Redirected("MOVED 1 127.0.0.1:1")
    assert [patience.next_pause(redirect) for _ in range(Patience.FREE)] == [0] * Patience.FREE
    with pytest.raises(RedisUnavailable):
        patience.next_pause(redirect)
    assert Patience(limit_s=9).next_pause(Redirected("TRYAGAIN")) == Patience.PAUSE_S


def add(url: str, channel: str, *messages: bytes) -> list[StreamId | StoreError]:
    async def main() -> list[StreamId | StoreError]:
        async with Publisher(RedisTarget(url, 1.0)) as publisher:
            return await publisher.add(channel, messages)

    return asyncio.run(main())


def test_messages_are_written_where_they_belong(cluster: Cluster, channel: str) -> None:
    for url in (cluster.url, *(each.url for each in cluster.servers)):  # replicas, too
        ids = add(url, channel, b"1", b"2", b"3")
        assert all(isinstance(each, StreamId) for each in ids), ids
    found = cluster.call(channel, "XRANGE", channel, "-", "+")
    assert [fields[1] for _, fields in found] == [b"1", b"2", b"3"] * 7


def test_messages_for_a_slot_on_its_way(cluster: Cluster, channel: str) -> None:
    target = next(each for each in cluster.servers[:3] if each is not cluster.owner(channel))
    with cluster.migrating(slot_of(channel), target):
        assert all(isinstance(each, StreamId) for each in add(cluster.url, channel, b"1", b"2"))
        assert target.call("CLUSTER", "COUNTKEYSINSLOT", slot_of(channel)) == 1
    assert len(cluster.call(channel, "XRANGE", channel, "-", "+")) == 2


def test_messages_are_stored_in_order_or_refused(
    cluster: Cluster, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three that were sent together a node may do the second only, as the cluster was down until then."""
    ask = Publisher._ask
    sent: list[int] = []

    async def refuse_some(self: Publisher, commands: Sequence[bytes], *, is_asking: bool) -> list[Any]:
        sent.append(len(commands))
        if len(sent) > 2:
            return await ask(self, commands, is_asking=is_asking)
        down = ReplyError("CLUSTERDOWN The cluster is down")
        if len(sent) == 2:
            return [down]
        [stored] = await ask(self, commands[1:2], is_asking=is_asking)
        return [down, stored, down, down]

    monkeypatch.setattr(Publisher, "_ask", refuse_some)
    results = add(cluster.owner(channel).url, channel, b"1", b"2", b"3", b"4")
    assert isinstance(results[0], RedisUnavailable)
    assert sent == [4, 1, 1, 1]
    found = cluster.call(channel, "XRANGE", channel, "-", "+")
    assert [fields[1] for _, fields in found] == [b"2", b"3", b"4"]


def test_the_command(cluster: Cluster, channel: str) -> None:
    done = run_main("xadd", channel, "1", "--redis-url", cluster.url)
    assert re.fullmatch(r"\d+-\d+\n", done.stdout), done
    assert cluster.call(channel, "XLEN", channel) == 1
    done = run_main("xadd", channel, "1", "--print-command", "--redis-url", cluster.url)
    assert done.stdout.startswith(f"redis-cli -p {cluster.servers[0].port} -c XADD "), done


def test_the_url() -> None:
    url = parse_redis_url("rediss+cluster://ann:secret@one,two:7000,[::1]:7001")
    assert url.nodes == (("one", 6379), ("two", 7000), ("::1", 7001))
    assert url.is_tls
    assert url.arguments["password"] == "secret"
    assert url.shown == "rediss+cluster://***@one,two:7000,[::1]:7001"
