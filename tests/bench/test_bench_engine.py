"""The parts of ``rsws bench`` that do no I/O: what is counted, checked, written, found and shown."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import msgspec
import pytest
from websockets.uri import parse_uri

from kit.gateway import first_frame, frame
from rsws.bench.histogram import Histogram
from rsws.bench.messages import BATCH_MESSAGES, MIN_SIZE_BYTES, Batch, MessageReader, PublishFrames, find_frame
from rsws.bench.plan import Findings, Plan, Workload
from rsws.bench.report import Report
from rsws.bench.sequence import MAX_RANGES, Received, as_ranges
from rsws.bench.socket import Socket
from rsws.cli.bench_display import format_report, plot
from rsws.protocol import Message, Publish, StreamId, decode_request, encode_reply

PLAN: dict[str, Any] = {
    "workload": Workload.FANOUT,
    "url": "ws://127.0.0.1:8080",
    "run_id": "0123abcd",
    "prefix": "p:",
    "clients": 10,
    "processes": 3,
    "size_bytes": 200,
    "timeout_s": 1,
}


def plan(**changes: Any) -> Plan:
    return Plan(**PLAN | changes)


# --- histogram ---


def test_quantiles_are_exact_to_three_percent() -> None:
    generator = random.Random(1)
    values = sorted(int(generator.lognormvariate(8, 3)) for _ in range(20_000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for share in (0.01, 0.5, 0.9, 0.99, 0.999):
        exact = values[int(share * len(values)) - 1]
        assert abs(histogram.quantile_us(share) - exact) <= 1 + 0.032 * exact
    assert (histogram.min_us, histogram.max_us, histogram.count) == (values[0], values[-1], len(values))
    assert histogram.mean_us == sum(values) / len(values)
    assert sum(count for _, _, count in histogram.buckets()) == len(values)
    assert all(low <= high for low, high, _ in histogram.buckets())


def test_each_duration_lies_in_its_bucket() -> None:
    for value in (*range(300), 1 << 20, (1 << 20) - 1, (1 << 36) - 1):
        histogram = Histogram()
        histogram.add(value, 3)
        [(low, high, count)] = histogram.buckets()
        assert low <= value < high
        assert (high - low) * 32 <= max(low, 32)
        assert count == 3


def test_what_no_bucket_is_for_counts_as_the_nearest() -> None:
    histogram = Histogram()
    histogram.add(-5)
    histogram.add(1 << 50)
    assert (histogram.min_us, histogram.max_us, histogram.count) == (0, (1 << 36) - 1, 2)


def test_histograms_are_added() -> None:
    parts, whole = [Histogram(), Histogram(), Histogram()], Histogram()
    for value in range(1000):
        parts[value % 2].add(value)
        whole.add(value)
    merged = Histogram()
    for part in parts:
        merged.merge(msgspec.json.decode(msgspec.json.encode(part), type=Histogram))
    assert merged == whole
    assert (merged.count, merged.min_us, merged.mean_us) == (whole.count, 0, whole.mean_us)


# --- sequence ---


def received(*numbers: int) -> Received:
    """What came, where each message has an id as high as its number."""
    sequence = Received()
    for number in numbers:
        sequence.add(number, number + 1, StreamId(number + 1, 0), StreamId(number + 1, 0))
    return sequence


@pytest.mark.parametrize(
    ("numbers", "lost", "duplicated", "reordered"),
    [
        (range(5), 0, 0, 0),
        ((0, 1, 3, 4), 1, 0, 0),
        ((0, 1, 2), 2, 0, 0),
        ((), 5, 0, 0),
        ((0, 1, 1, 2, 3, 4), 0, 1, 0),
        ((0, 1, 2, 3, 4, 0), 0, 1, 0),
        ((0, 2, 1, 3, 4), 0, 0, 1),
        ((0, 4, 2, 1, 3), 0, 0, 3),
        ((0, 4, 2, 2, 1), 1, 1, 2),
        ((3, 1, 1), 3, 1, 1),
    ],
)
def test_what_is_wrong_is_found(numbers: tuple[int, ...], lost: int, duplicated: int, reordered: int) -> None:
    sequence = received(*numbers)
    assert (sequence.missing(5), sequence.duplicated, sequence.reordered) == (lost, duplicated, reordered)


def test_an_id_that_does_not_ascend_is_out_of_order() -> None:
    sequence = Received()
    for number, message_id in enumerate((StreamId(9, 0), StreamId(10, 0), StreamId(10, 0), StreamId(2, 0))):
        sequence.add(number, number + 1, message_id, message_id)
    assert (sequence.reordered, sequence.duplicated, sequence.missing(4)) == (2, 0, 0)
    assert sequence.last_id == StreamId(10, 0), "where to resume"


def test_what_need_not_come_is_not_lost() -> None:
    sequence = received(0, 1, 4, 5)
    assert sequence.missing(10) == 6
    assert sequence.missing(10, [(2, 3), (5, 8)]) == 3
    assert sequence.missing(10, [(0, 10)]) == 0


def test_losses_without_end_cost_no_memory_without_end() -> None:
    sequence = received(*range(0, 3 * MAX_RANGES, 2))
    assert sequence.missing(3 * MAX_RANGES) == 3 * MAX_RANGES // 2
    assert len(sequence._missing) == MAX_RANGES


def test_ranges() -> None:
    assert as_ranges([]) == []
    assert as_ranges([1, 2, 3, 7, 9, 10]) == [(1, 4), (7, 8), (9, 11)]


# --- messages ---


def event(number: int, *, to: Plan | None = None, message_id: StreamId | None = None, published_us: int = 7) -> bytes:
    """The frame in which a gateway sends a message."""
    publish = published(PublishFrames(to or plan(), 0, None).frame(number, published_us))
    message_id = message_id or StreamId(1700000000000, number)
    text = encode_reply(Message(publish.channel, message_id, publish.data.decode()))
    return frame(text, masked=False)


def published(client_frame: bytes) -> Publish:
    """What a gateway reads of a client's frame."""
    found = first_frame(client_frame)
    assert found is not None
    assert client_frame[1] & 0x80, "not masked"
    request = decode_request(found[1].decode())
    assert isinstance(request, Publish)
    return request


@pytest.mark.parametrize("size", [MIN_SIZE_BYTES, 100, 1000, 100_000])
def test_a_publish_is_what_a_gateway_reads(size: int) -> None:
    request = published(PublishFrames(plan(size_bytes=size), 4, "me").frame(12, 34))
    assert (request.channel, request.message_id, request.producer) == ("p:0123abcd:4", "0000000012", "me")
    assert len(request.data) == size
    assert published(PublishFrames(plan(), 4, None).frame(12, 34)).producer is None


@pytest.mark.parametrize("shared", [False, True])
def test_messages_are_found_in_one_go(shared: bool) -> None:
    reader = MessageReader(plan(), 0, shared=shared)
    data = b"?" + b"".join(event(number, published_us=number // 2) for number in range(5)) + frame(b"{}", masked=False)
    for _ in range(2):  # read, and compared with what was read
        batch = reader.read(data, 1, 0)
        assert batch == Batch(
            0, 5, StreamId(1700000000000, 0), StreamId(1700000000000, 4), [(0, 2), (1, 2), (2, 1)],
            len(data) - 1 - len(frame(b"{}", masked=False)),
        )  # fmt: skip
        assert reader.read(data, 1 + batch.length, 5) is None


def test_what_is_known_is_compared_and_not_taken_for_granted() -> None:
    reader = MessageReader(plan(), 0, shared=True)
    data = b"".join(map(event, range(3)))
    assert reader.read(data, 0, 0) is not None
    spoiled = data[:-20] + b"?" + data[-19:]
    batch = reader.read(spoiled, 0, 0)
    assert batch is not None
    assert batch.stop == 2


@pytest.mark.parametrize("cut", range(1, 500, 7))
def test_frames_that_come_in_pieces_are_found(cut: int) -> None:
    reader = MessageReader(plan(), 0, shared=True)
    data = b"".join(map(event, range(2 * BATCH_MESSAGES)))
    for pieces in ([data[:-cut], data[-cut:]], [data], [data[:cut], data[cut:]]):
        sequence, rest = Received(), b""
        for piece in pieces:
            rest += piece
            while (batch := reader.read(rest, 0, sequence.next)) is not None:
                sequence.add(batch.first, batch.stop, batch.first_id, batch.last_id)
                rest = rest[batch.length :]
        assert rest == b""
        assert sequence.next == 2 * BATCH_MESSAGES
        assert (sequence.missing(sequence.next), sequence.duplicated, sequence.reordered) == (0, 0, 0)


@pytest.mark.parametrize(
    "other",
    [
        event(0, to=plan(run_id="ffffffff")),
        event(0, to=plan(size_bytes=201)),
        event(0).replace(b"xx", b"xy", 1),
        event(0).replace(b'"event"', b'"Event"'),
        event(0)[:-1],
        b"\x89" + event(0)[1:],
        b"",
        b"\x81",
        b"\x81\x7e",
    ],
)
def test_what_is_no_message_of_the_run_is_left_alone(other: bytes) -> None:
    assert MessageReader(plan(), 0, shared=False).read(other, 0, 0) is None


def test_numbers_and_ids_that_do_not_follow_end_a_run() -> None:
    reader = MessageReader(plan(), 0, shared=False)
    for second in (event(2), event(0), event(1, message_id=StreamId(1, 0))):
        batch = reader.read(event(0) + second, 0, 0)
        assert batch is not None
        assert (batch.first, batch.stop) == (0, 1)


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_frames_of_every_length_are_found(length: int) -> None:
    head = (
        {True: bytes((0x81, length & 0x7F)), False: b"\x81\x7e" + length.to_bytes(2, "big")}[length < 126]
        if (length < 65536)
        else b"\x81\x7f" + length.to_bytes(8, "big")
    )
    data = b"?" + head + bytes(length)
    assert find_frame(data, 1) == (1 + len(head), len(data))
    assert all(find_frame(data[:end], 1) is None for end in {1, 2, len(head), len(data) - 1} if end < len(data))


class WithoutSocket(asyncio.Transport):
    """A connection whose socket has gone, as uvloop has it when connecting is cancelled."""

    aborted = False

    def write(self, data: object) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def abort(self) -> None:
        self.aborted = True


def test_a_connection_without_a_socket_can_be_cut() -> None:
    nobody: Any = None
    connection, transport = Socket(parse_uri("ws://127.0.0.1"), nobody), WithoutSocket()
    connection.connection_made(transport)
    connection.cut()
    assert transport.aborted


# --- plan ---


@pytest.mark.parametrize(("clients", "processes"), [(10, 3), (1, 1), (7, 7), (1000, 8)])
def test_each_client_is_up_to_one_process(clients: int, processes: int) -> None:
    shares = [plan(clients=clients, processes=processes).share(number) for number in range(processes)]
    assert [client for share in shares for client in share] == [*range(clients)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# --- what is shown ---


def report(rate: float = 0, **found: Any) -> Report:
    histogram = Histogram()
    for value in (900, 1000, 1000, 1100, 5000):
        histogram.add(value)
    facts: dict[str, Any] = {"seconds": 2.0, "cpu": 0.5, "waiting": 0.1, "latencies": {"delivery": histogram}}
    return Report(plan(rate=rate), [11, 5, 5, 50, 50, 12_000_000, 4], Findings(**facts | found))


def test_the_report_says_what_there_is_to_say() -> None:
    shown = format_report(report(), on_terminal=False)
    assert re.search(r"^published +5 +2$", shown, re.MULTILINE)
    assert re.search(r"^delivered +50 +25$", shown, re.MULTILINE)
    assert re.search(r"^received, MB +12\.0 +6\.0$", shown, re.MULTILINE)
    assert re.search(r"^publish to delivery +1 ms( +(?:4\.9\d?|5(?:\.0\d)?) ms){3} +5 ms$", shown, re.MULTILINE)
    assert re.search(r"^cut and resumed +4$", shown, re.MULTILINE), "nothing behind it"
    assert "checked: 0 lost, 0 duplicated, 0 reordered, 0 foreign\n" in shown
    assert "the benchmark was not the limit: its busiest process has used 50% of a CPU" in shown
    shown = format_report(
        report(lost=1, outstanding=2, refused=3, refusal="no\x1b", unknown=4, gaps=5, rate=100),
        on_terminal=False,
    )
    for line in (
        "checked: 1 lost, 0 duplicated, 0 reordered, 0 foreign",
        "2 had not come when it was ended",
        r"refused: 3 publishes; no\u001b",
        "outcome unknown: 4 publishes, stored or not",
        "the gateway has reported 5 gaps",
        "the rate was not reached: 2 of 100 messages/s",
    ):
        assert f"{line}\n" in shown


@pytest.mark.parametrize(
    ("cpu", "waiting", "bottleneck"),
    [(0.89, 0.0, None), (0.9, 0.0, "benchmark"), (0.5, 0.4, "machine"), (0.5, 0.39, None)],
)
def test_the_bottleneck_is_named(cpu: float, waiting: float, bottleneck: str | None) -> None:
    result = report(cpu=cpu, waiting=waiting)
    assert result.bottleneck == result.as_json()["bottleneck"] == bottleneck
    shown = format_report(result, on_terminal=False)
    assert ("lower bound" in shown) == (bottleneck is not None)
    assert bottleneck is None or f"the {bottleneck} " in shown.replace("this", "the").replace("itself ", "")


def test_the_plot_has_its_peak_where_most_durations_are() -> None:
    histogram = Histogram()
    for value, count in ((100, 1), (1000, 50), (10_000, 5), (99_000, 1)):
        histogram.add(value, count)
    *bars, axis, labels, marks = plot(histogram, 61, 4)
    assert len(bars) == 4
    assert [index for index, line in enumerate(bars) for block in line if block == "█"]
    peak = bars[0].rindex("█")
    assert abs(peak - labels.index("1 ms")) <= 1
    assert abs(peak - marks.index("↑p50")) <= 1
    assert all(bars[-1][labels.index(tick)] != " " for tick in ("100 µs", "10 ms"))
    assert axis.index("┬") == labels.index("100 µs")
    assert all(len(line) <= 80 for line in (*bars, axis, labels, marks))
    assert "88%" in bars[0]


@pytest.mark.parametrize("values", [[0], [1], [1, 1], [5_000_000], [1, 60_000_000], [(1 << 36) - 1]])
def test_anything_can_be_plotted(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    lines = plot(histogram)
    assert any("█" in line for line in lines)
    assert all(len(line) <= 80 for line in lines)
