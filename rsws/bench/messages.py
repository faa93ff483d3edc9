"""The messages of a run: their format, how they are written, and how they are found in what a gateway sends.

The data is a JSON string that begins with the run's id, the message's number and the time it was published, each of a
fixed width. A gateway of this protocol sends it unchanged, in an event whose keys have one order, so one regular
expression reads and checks the whole event.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

import msgspec

from rsws.bench.plan import Plan
from rsws.frames import MASKED, TEXT, bounds, header
from rsws.protocol import StreamId

NUMBER_DIGITS = 10
TIME_DIGITS = 16
MIN_SIZE_BYTES = len('""') + 8 + NUMBER_DIGITS + TIME_DIGITS

BATCH_MESSAGES = 32
"""The most messages of a batch, which is compared as a whole; a batch ends before the next multiple of this number.
Data may be cut off anywhere: a subscriber that received a part of a batch parses that part, and can compare again from
the next multiple on."""
KNOWN_BYTES = 8 * 1024 * 1024
"""The bytes of parsed batches that are kept for comparison; above that all are dropped."""


def now_us() -> int:
    """Return the time of a clock that all processes of a machine share, in microseconds."""
    return time.monotonic_ns() // 1000


def text_header(length: int) -> bytes:
    """Return the header of a client's text frame of that length; its mask of zeros leaves the payload unchanged."""
    return header(length, TEXT, MASKED) + bytes(4)


def find_frame(data: bytes, position: int) -> tuple[int, int] | None:
    """Return where the payload of the frame at ``position`` begins and ends; None while the frame is incomplete."""
    found = bounds(data, position)
    return found if found is not None and found[1] <= len(data) else None


class PublishFrames:
    """A writer of the publish requests of one channel.

    Args:
        producer: The producer's name, with which a gateway stores each message at most once; None for no such name.
    """

    def __init__(self, plan: Plan, channel: int, producer: str | None) -> None:
        head = f'{{"action":"publish","channel":{_quote(plan.channel(channel))},"data":"{plan.run_id}'
        middle = f'{_padding(plan)}","messageId":"'
        tail = '"}' if producer is None else f'","producer":"{producer}"}}'
        length = len(head) + NUMBER_DIGITS + TIME_DIGITS + len(middle) + NUMBER_DIGITS + len(tail)
        self._head = text_header(length) + head.encode()
        self._middle = middle.encode()
        self._tail = tail.encode()

    def frame(self, number: int, published_us: int) -> bytes:
        """Return the frame that publishes one message, whose ``messageId`` is its number."""
        return b"%b%010d%016d%b%010d%b" % (self._head, number, published_us, self._middle, number, self._tail)


class Batch(NamedTuple):
    """Messages with consecutive numbers and ascending ids."""

    first: int
    """The number of the first message."""
    stop: int
    """One above the number of the last message."""
    first_id: StreamId
    last_id: StreamId
    published_us: list[tuple[int, int]]
    """The times at which the messages were published, each with the number of consecutive messages that have it."""
    length: int
    """The bytes of their frames, headers included."""


class MessageReader:
    """A parser that finds the messages of one channel.

    Args:
        shared: Whether several subscribers use it. They receive the same frames, so a batch that was parsed and checked
            for one of them is only compared for the others, which takes a tenth of the time.
    """

    def __init__(self, plan: Plan, channel: int, *, shared: bool) -> None:
        quoted = re.escape(_quote(plan.channel(channel)))
        data = rf"{plan.run_id}([0-9]{{{NUMBER_DIGITS}}})([0-9]{{{TIME_DIGITS}}}){_padding(plan)}"
        event = (
            rf'\{{"event":"message","channel":{quoted},"streamId":"([0-9]{{1,20}})-([0-9]{{1,20}})","data":"{data}"\}}'
        )
        self._match_event = re.compile(event.encode()).fullmatch
        self._match_data = re.compile(f'"{data}"').fullmatch
        self._shared = shared
        self._known: dict[int, tuple[bytes, Batch]] = {}
        self._known_bytes = 0

    def read(self, data: bytes, position: int, expected: int) -> Batch | None:
        """Return the messages whose frames begin at ``position``; None where something else or no whole frame does.

        Args:
            expected: The number that comes next if nothing is missing.
        """
        known = self._known.get(expected)
        if known is not None and data.startswith(known[0], position):
            return known[1]
        batch = self._parse(data, position)
        if self._shared and batch is not None and (known is None or known[1].length < batch.length):
            self._remember(data[position : position + batch.length], batch)
        return batch

    def number(self, json: str) -> int | None:
        """Return the number of a message, read from its data; None if it is not a message of this run."""
        match = self._match_data(json)
        return None if match is None else int(match[1])

    def _parse(self, data: bytes, begin: int) -> Batch | None:
        match_event = self._match_event
        position = begin
        first = number = -1
        first_id = last_id = StreamId(0, 0)
        published_us: list[tuple[int, int]] = []
        since = count = 0
        while (found := bounds(data, position)) is not None and data[position] == TEXT:
            start, stop = found
            match = match_event(data, start, stop) if stop <= len(data) else None
            if match is None:
                break
            ms, seq, this, when = map(int, match.groups())
            if first < 0:
                first = this
                first_id = last_id = StreamId(ms, seq)
            elif this != number + 1 or (ms, seq) <= last_id or this % BATCH_MESSAGES == 0:
                break
            else:
                last_id = StreamId(ms, seq)
            if when != since:
                if count:
                    published_us.append((since, count))
                since, count = when, 0
            number = this
            count += 1
            position = stop
        if first < 0:
            return None
        published_us.append((since, count))
        return Batch(first, number + 1, first_id, last_id, published_us, position - begin)

    def _remember(self, frames: bytes, batch: Batch) -> None:
        if self._known_bytes > KNOWN_BYTES:
            self._known.clear()
            self._known_bytes = 0
        self._known[batch.first] = (frames, batch)
        self._known_bytes += len(frames)


def _quote(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _padding(plan: Plan) -> str:
    return "x" * (plan.size_bytes - MIN_SIZE_BYTES)
