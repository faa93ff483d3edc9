"""The checker: writes down every send, answer and delivery, and judges afterwards against the stream itself.

    history = History(seed)
    ... clients run: Publisher, Subscriber, or calls of sent(), answered(), Log.message() ...
    history.check({channel: stream_of(redis, channel)})

A message is recognised by its data, which has to be another one for each message.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import WebSocketException

from kit.gateway import KEY
from kit.support import RedisServer
from rsws.protocol import StreamId

Kind: TypeAlias = Literal[
    "lost",
    "duplicated",
    "reordered",
    "phantom",
    "wrong body",
    "false ack",
    "false not_stored",
    "unanswered",
    "answered twice",
    "gap without notice",
    "notice without gap",
]

Stream: TypeAlias = Sequence[tuple[str, bytes]]
"""The entries of a stream: id and data, in order."""


class Finding(NamedTuple):
    """One breach of the promise."""

    kind: Kind
    channel: str
    text: str


@dataclass
class Sent:
    """One message of one publisher, sent once or more often."""

    publisher: str
    channel: str
    message_id: str
    data: bytes
    once: bool
    """Whether it named its producer, and so must be stored at most once."""
    sends: int = 0
    acks: list[str] = field(default_factory=list)
    not_stored: int = 0
    unknown: int = 0
    excused: int = 0
    """Sends whose connection ended before the answer."""

    @property
    def answers(self) -> int:
        return len(self.acks) + self.not_stored + self.unknown


class Gap(NamedTuple):
    """A gap that was told."""

    after: str
    resumes_at: str | None
    reason: str


class Log:
    """What one subscriber was given of a channel, over all its connections.

    Args:
        name: Who it is, for the findings.
        start: Everything after it is to come.
    """

    def __init__(self, name: str, channel: str, start: str) -> None:
        self.name = name
        self.channel = channel
        self.start = start
        self.events: list[tuple[str, bytes] | Gap] = []
        self.to_the_end = True
        """Whether it read on until nothing was left."""

    def message(self, stream_id: str, data: bytes) -> None:
        self.events.append((stream_id, data))

    def gap(self, after: str, resumes_at: str | None, reason: str) -> None:
        self.events.append(Gap(after, resumes_at, reason))


class History:
    """Everything that was sent, answered and delivered.

    Args:
        seed: What chance came from; it is in the text of a failure. None takes a fresh one, or that of ``FAULT_SEED``.

    Attributes:
        chance: The random numbers of that seed.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = (
            seed if seed is not None else int(os.environ.get("FAULT_SEED", random.SystemRandom().getrandbits(32)))
        )
        self.chance = random.Random(self.seed)
        self.sends: dict[tuple[str, str, str], Sent] = {}
        self.logs: list[Log] = []
        self._removed: dict[str, list[tuple[str, bytes]]] = {}
        self._reset: set[str] = set()
        self._of_others: set[bytes] = set()

    # --- what happens ---

    def sent(self, publisher: str, channel: str, message_id: str, data: bytes, *, once: bool = False) -> Sent:
        """A publish was sent, for the first time or again."""
        key = publisher, channel, message_id
        sent = self.sends.get(key)
        if sent is None:
            sent = self.sends[key] = Sent(publisher, channel, message_id, data, once)
        sent.sends += 1
        return sent

    def subscribed(self, name: str, channel: str, start: str) -> Log:
        """Somebody is to get everything after ``start``."""
        log = Log(name, channel, start)
        self.logs.append(log)
        return log

    def written(self, entries: Stream) -> None:
        """Another program has stored these, and nobody was told."""
        self._of_others.update(data for _, data in entries)

    def removed(self, channel: str, entries: Stream) -> None:
        """These entries were deleted or trimmed."""
        self._removed.setdefault(channel, []).extend(entries)

    def reset(self, channel: str, entries: Stream) -> None:
        """The stream with these entries was deleted, or replaced by another one."""
        self.removed(channel, entries)
        self._reset.add(channel)

    # --- what to make of it ---

    def check(self, streams: Mapping[str, Stream]) -> None:
        """Fail, with the seed, when the promise was broken."""
        findings = self.judge(streams)
        if findings:
            kinds = ", ".join(
                f"{count} {kind}" for kind, count in Counter(finding.kind for finding in findings).items()
            )
            shown = "\n".join(f"  {finding.kind}: {finding.channel}: {finding.text}" for finding in findings[:20])
            raise AssertionError(f"seed {self.seed}: {kinds}\n{shown}")

    def judge(self, streams: Mapping[str, Stream]) -> list[Finding]:
        """Every breach of the promise, given the streams as they are in the end."""
        findings: list[Finding] = []
        for channel in streams.keys() | {sent.channel for sent in self.sends.values()}:
            final, removed = streams.get(channel, ()), self._removed.get(channel, ())
            findings += self._judge_publishes(channel, [*removed, *final])
            everything = _Everything(final, removed, channel in self._reset)
            for log in self.logs:
                if log.channel == channel:
                    findings += everything.judge(log)
        return findings

    def _judge_publishes(self, channel: str, entries: Stream) -> list[Finding]:
        findings: list[Finding] = []
        data_of: dict[str, list[bytes]] = {}
        stored: dict[bytes, list[str]] = {}
        for stream_id, data in dict.fromkeys(entries):  # one that came back with a roll-back is the same one
            data_of.setdefault(stream_id, []).append(data)
            stored.setdefault(data, []).append(stream_id)
        last_of: dict[str, tuple[StreamId, str]] = {}

        for sent in self.sends.values():
            if sent.channel != channel:
                continue
            ids = stored.pop(sent.data, [])
            who = f"{sent.publisher} {sent.message_id}"

            def found(kind: Kind, text: str, who: str = who) -> None:
                findings.append(Finding(kind, channel, f"{who}: {text}"))

            for stream_id in sent.acks:
                if stream_id not in data_of:
                    found("lost", f"acked as {stream_id}, which is not there")
                elif sent.data not in data_of[stream_id]:
                    found("false ack", f"acked as {stream_id}, which is {data_of[stream_id][0]!r:.100}")
            maybe = sent.unknown + sent.excused
            if not sent.acks and not maybe and ids:
                found("false not_stored", f"refused as not stored, and is there as {ids}")
            elif len(ids) > (1 if sent.once else len(set(sent.acks)) + maybe):
                found("duplicated", f"sent {sent.sends} times, acked {sent.acks}, and is there as {ids}")
            if sent.answers + sent.excused < sent.sends:
                found("unanswered", f"{sent.sends} times sent, {sent.answers} times answered")
            elif sent.answers + sent.excused > sent.sends:
                found("answered twice", f"{sent.sends} times sent, {sent.answers} times answered")
            if sent.sends == len(sent.acks) == len(ids) == 1:
                here = StreamId.parse(ids[0])
                before = last_of.get(sent.publisher)
                if before is not None and here < before[0]:
                    found("reordered", f"{here} is before {before[1]} at {before[0]}, which was sent earlier")
                last_of[sent.publisher] = here, sent.message_id
        findings += [
            Finding("phantom", channel, f"{ids} was sent by nobody: {data!r:.100}")
            for data, ids in stored.items()
            if data not in self._of_others
        ]
        return findings


class _Everything:
    """All that was ever in a stream, to hold a subscriber's log against."""

    def __init__(self, final: Stream, removed: Stream, was_reset: bool) -> None:
        self.was_reset = was_reset
        self.final = {stream_id for stream_id, _ in final}
        self.data: dict[str, set[bytes]] = {}
        for stream_id, data in [*removed, *final]:
            self.data.setdefault(stream_id, set()).add(data)
        self.parsed = sorted(map(StreamId.parse, self.data))
        self.order = list(map(str, self.parsed))
        self.index = {stream_id: index for index, stream_id in enumerate(self.order)}

    def judge(self, log: Log) -> list[Finding]:
        findings: list[Finding] = []

        def found(kind: Kind, text: str) -> None:
            findings.append(Finding(kind, log.channel, f"{log.name}: {text}"))

        def missing(until: int) -> None:
            """What lies between the last event and the one at index ``until`` was not delivered."""
            for stream_id in self.order[following:until]:
                if stream_id in self.final:
                    found("lost", f"{stream_id} was not delivered")
                elif not excused and not after_reset:
                    found("gap without notice", f"{stream_id} was removed before it was delivered")

        following = bisect_right(self.parsed, StreamId.parse(log.start))
        excused = after_reset = False
        delivered: set[str] = set()
        for event in log.events:
            if isinstance(event, Gap):
                if event.reason == "reset":
                    if not self.was_reset:
                        found("notice without gap", f"{event}: the stream was not reset")
                    following, after_reset, delivered = 0, True, set()
                elif event.after == "0-0" or event.after in self.final:
                    found("notice without gap", f"{event}: {event.after} is still there")
                else:
                    excused = True
                continue
            stream_id, data = event
            index = self.index.get(stream_id)
            if index is None:
                found("phantom", f"{stream_id} was delivered and never there: {data!r:.100}")
                continue
            if data not in self.data[stream_id]:
                found("wrong body", f"{stream_id} was delivered as {data!r:.100}")
            if index < following:
                kind: Kind = "duplicated" if stream_id in delivered else "reordered"
                found(kind, f"{stream_id} was delivered after {self.order[following - 1]}")
                continue
            if index > following:
                missing(index)
            excused = False
            delivered.add(stream_id)
            following = index + 1
        if log.to_the_end:
            missing(len(self.order))
        return findings


def stream_of(redis: RedisServer, channel: str, start: str = "-") -> list[tuple[str, bytes]]:
    """What is in the stream now."""
    return [
        (stream_id.decode(), dict(zip(fields[::2], fields[1::2], strict=True))[b"messageData"])
        for stream_id, fields in redis.call("XRANGE", channel, start, "+")
    ]


# --- clients that write everything down ---


class Frame(msgspec.Struct):
    """Anything a gateway sends."""

    event: str | None = None
    status: str | int | None = None
    channel: str | None = None
    streamId: str = ""
    data: msgspec.Raw = msgspec.Raw()
    messageId: str = ""
    lastMessageId: str = ""
    resumesAt: str | None = None
    reason: str = ""
    code: str | None = None
    outcome: str | None = None
    error: str | None = None


decode = msgspec.json.Decoder(Frame).decode


async def open_anywhere(urls: Sequence[str], chance: random.Random) -> ClientConnection:
    """A connection to one of these gateways, as soon as one answers; its welcome is read."""
    while True:
        try:
            websocket = await websocket_connect(
                f"{chance.choice(urls)}/?token={KEY}",
                compression=None,
                ping_interval=None,
                proxy=None,
                open_timeout=5,
                close_timeout=0.2,
            )
            await websocket.recv()
        except (OSError, WebSocketException, TimeoutError):
            await asyncio.sleep(0.02 + 0.03 * chance.random())
        else:
            return websocket


class Publisher:
    """Publishes message after message, and connects again when it has to.

    Args:
        urls: The gateways to choose from.
        once: Name a producer, and send again whatever has an unknown outcome until it is known.
        window: How many messages may wait for their answers.
        pause_s: Between two messages.
    """

    def __init__(
        self,
        history: History,
        name: str,
        urls: Sequence[str],
        channel: str,
        *,
        once: bool,
        window: int = 20,
        pause_s: float = 0.0,
        padding: int = 0,
    ) -> None:
        self.history, self.name, self.urls, self.channel = history, name, urls, channel
        self.once, self.window, self.pause_s, self.padding = once, window, pause_s, "x" * padding
        self.acked = 0
        self.refused = 0
        self.resent = 0
        self.last_ack_at = time.monotonic()
        self.longest_silence_s = 0.0
        """The longest time without an ack."""
        self._waiting: dict[str, Sent] = {}
        self._again: deque[Sent] = deque()
        self._count = 0
        self._changed = asyncio.Event()

    async def run(self, over: asyncio.Event) -> None:
        """Publish until ``over``, and then until every outcome that can be known is known."""
        self.last_ack_at = time.monotonic()
        while not over.is_set() or self._waiting or self._again:
            websocket = await open_anywhere(self.urls, self.history.chance)
            reading = asyncio.create_task(self._read(websocket))
            try:
                await self._write(websocket, over, reading)
            except (WebSocketException, OSError):
                pass  # the next connection goes on
            finally:
                with suppress(WebSocketException, OSError):
                    await websocket.close()
                websocket.transport.abort()
                reading.cancel()
                await asyncio.wait([reading])
                for sent in self._waiting.values():
                    sent.excused += 1
                    if self.once:
                        self._again.append(sent)
                self._waiting.clear()

    async def _write(self, websocket: ClientConnection, over: asyncio.Event, reading: asyncio.Task[None]) -> None:
        while not reading.done():
            self._changed.clear()
            if len(self._waiting) >= self.window or (over.is_set() and not self._again and self._waiting):
                waiting = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait([reading, waiting], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                continue
            if self._again:
                sent = self._again.popleft()
                self.resent += 1
                self.history.sent(self.name, self.channel, sent.message_id, sent.data, once=True)
            elif over.is_set():
                return
            else:
                self._count += 1
                data = f'{{"by":"{self.name}","n":{self._count},"padding":"{self.padding}"}}'.encode()
                sent = self.history.sent(self.name, self.channel, str(self._count), data, once=self.once)
            self._waiting[sent.message_id] = sent
            producer = f',"producer":"{self.name}"' if self.once else ""
            await websocket.send(
                f'{{"action":"publish","channel":"{self.channel}","messageId":"{sent.message_id}"{producer},"data":'.encode()
                + sent.data
                + b"}",
                text=True,
            )
            if self.pause_s:
                await asyncio.sleep(self.pause_s)

    async def _read(self, websocket: ClientConnection) -> None:
        with suppress(WebSocketException, OSError):
            while True:
                frame = decode(await websocket.recv())
                sent = (
                    self._waiting.pop(frame.messageId, None)
                    or self.history.sends[self.name, self.channel, frame.messageId]
                )
                self._changed.set()
                if frame.status == "ack":
                    self.acked += 1
                    now = time.monotonic()
                    self.longest_silence_s = max(self.longest_silence_s, now - self.last_ack_at)
                    self.last_ack_at = now
                    sent.acks.append(frame.streamId)
                    continue
                assert frame.status == "error_ack", frame
                self.refused += 1
                if frame.outcome == "unknown":
                    sent.unknown += 1
                else:
                    sent.not_stored += 1
                if self.once:
                    self._again.append(sent)
                await asyncio.sleep(0.01)


class Subscriber:
    """Reads a channel, and goes on after the last id it got when it has to connect again."""

    def __init__(self, history: History, name: str, urls: Sequence[str], channel: str, start: str = "0") -> None:
        self.history, self.urls, self.channel = history, urls, channel
        self.position = "0-0" if start == "0" else start
        self.log = history.subscribed(name, channel, self.position)
        self.connections = 0
        self.websocket: ClientConnection | None = None
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            self.websocket = websocket = await open_anywhere(self.urls, self.history.chance)
            self.connections += 1
            try:
                await websocket.send(
                    f'{{"action":"subscribe","channel":"{self.channel}","lastMessageId":"{self.position}"}}'
                )
                while True:
                    await self._take(decode(await websocket.recv()))
            except (WebSocketException, OSError, _NotNow):
                pass  # the next connection goes on
            finally:
                websocket.transport.abort()

    async def _take(self, frame: Frame) -> None:
        if frame.event == "message":
            self.position = frame.streamId
            self.log.message(frame.streamId, bytes(frame.data))
            self._news.set()
        elif frame.event == "gap":
            self.log.gap(frame.lastMessageId, frame.resumesAt, frame.reason)
            if frame.reason == "reset":
                self.position = "0-0"
        elif frame.code == "redis_unavailable" or frame.code == "redis_refused":
            await asyncio.sleep(0.05)
            raise _NotNow
        else:
            assert frame.status == "subscribed", frame
            if self.position == "$":
                self.position = self.log.start = frame.lastMessageId

    async def reached(self, stream_id: str) -> None:
        """Wait until it has got that far."""
        goal = StreamId.parse(stream_id)
        while StreamId.parse(self.position) < goal:
            self._news.clear()
            await self._news.wait()


class _NotNow(Exception):
    """The gateway can't subscribe anybody at the moment."""
