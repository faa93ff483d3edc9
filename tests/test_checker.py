"""The checker finds each wrong history, says what is wrong with it, and finds nothing in a right one."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

import prove
from kit.checker import Finding, Gap, History, Kind, Log, Publisher, Subscriber, open_anywhere, stream_of
from kit.faults import Proxy, Way, command_calls, configured, demoted
from kit.gateway import Client, add, async_test, gateway, until
from kit.proofs.proof import Proof
from kit.support import RedisServer, heed_signals, run_python

ENTRIES = [(f"{number}-0", b"%d" % number) for number in range(1, 7)]


class Story:
    """Six messages published, acked, stored and delivered; a test changes what it wants to be wrong."""

    def __init__(self) -> None:
        self.history = History(1)
        self.stream = list(ENTRIES)
        self.sends = [
            self.history.sent("p", "c", f"m{stream_id}", data, once=stream_id == "6-0") for stream_id, data in ENTRIES
        ]
        for sent, (stream_id, _) in zip(self.sends, ENTRIES, strict=True):
            sent.acks.append(stream_id)
        self.log = self.subscriber("0-0", *ENTRIES)

    def subscriber(self, start: str, *messages: tuple[str, bytes]) -> Log:
        log = self.history.subscribed("s", "c", start)
        for message in messages:
            log.message(*message)
        return log

    def remove(self, count: int) -> None:
        """The first entries are trimmed."""
        self.history.removed("c", self.stream[:count])
        del self.stream[:count]

    def reset(self, *stream: tuple[str, bytes]) -> None:
        """The stream is another one now; what it holds was sent by somebody."""
        self.history.reset("c", self.stream)
        self.stream = list(stream)
        for stream_id, data in set(stream) - set(ENTRIES):
            self.history.sent("q", "c", stream_id, data).acks.append(stream_id)

    def judge(self) -> list[Finding]:
        return self.history.judge({"c": self.stream})


def nothing(story: Story) -> None:
    pass


def an_unknown_one_that_is_stored(story: Story) -> None:
    story.sends[5].acks.clear()
    story.sends[5].unknown = 1


def an_unknown_one_that_is_not_stored(story: Story) -> None:
    story.history.sent("p", "c", "m7", b"7").unknown = 1


def one_without_an_answer_whose_connection_ended(story: Story) -> None:
    story.sends[5].acks.clear()
    story.sends[5].excused = 1


def a_repeat_that_was_stored_once(story: Story) -> None:
    story.history.sent("p", "c", "m6-0", b"6").acks.append("6-0")


def two_sends_two_entries(story: Story) -> None:
    story.history.sent("p", "c", "m3-0", b"3").acks.append("7-0")
    story.stream.append(("7-0", b"3"))
    story.log.message("7-0", b"3")


def one_of_another_program(story: Story) -> None:
    story.stream.append(("7-0", b"7"))
    story.history.written(story.stream[6:])
    story.log.message("7-0", b"7")


def a_start_in_the_middle(story: Story) -> None:
    story.subscriber("3-5", *ENTRIES[3:])


def one_who_left_early(story: Story) -> None:
    story.subscriber("0-0", *ENTRIES[:2]).to_the_end = False


def a_gap_that_was_told(story: Story) -> None:
    story.remove(4)
    story.subscriber("0-0", *ENTRIES[:2]).gap("2-0", "5-0", "trimmed")
    for message in ENTRIES[4:]:
        story.history.logs[-1].message(*message)


def a_gap_with_nothing_behind_it(story: Story) -> None:
    story.remove(6)
    story.subscriber("0-0", *ENTRIES[:2]).gap("2-0", None, "trimmed")


def a_false_alarm_that_can_not_be_helped(story: Story) -> None:
    story.remove(2)
    story.subscriber("0-0", *ENTRIES[:2]).gap("2-0", "3-0", "trimmed")
    for message in ENTRIES[2:]:
        story.history.logs[-1].message(*message)


def a_reset_that_was_told(story: Story) -> None:
    story.reset(("1-0", b"new"), ("2-0", b"2"))
    story.log.gap("6-0", "1-0", "reset")
    story.log.message("1-0", b"new")
    story.log.message("2-0", b"2")


RIGHT = [
    nothing,
    an_unknown_one_that_is_stored,
    an_unknown_one_that_is_not_stored,
    one_without_an_answer_whose_connection_ended,
    a_repeat_that_was_stored_once,
    two_sends_two_entries,
    one_of_another_program,
    a_start_in_the_middle,
    one_who_left_early,
    a_gap_that_was_told,
    a_gap_with_nothing_behind_it,
    a_false_alarm_that_can_not_be_helped,
    a_reset_that_was_told,
]


@pytest.mark.parametrize("change", RIGHT)
def test_a_right_history(change: Callable[[Story], None]) -> None:
    story = Story()
    change(story)
    assert story.judge() == []
    story.history.check({"c": story.stream})


def an_acked_one_is_not_there(story: Story) -> None:
    del story.stream[2], story.log.events[2]


def one_is_not_delivered(story: Story) -> None:
    del story.log.events[2]


def the_last_one_is_not_delivered(story: Story) -> None:
    del story.log.events[5]


def one_is_skipped_behind_a_notice(story: Story) -> None:
    story.remove(2)
    story.subscriber("1-0").gap("1-0", "3-0", "trimmed")
    for message in ENTRIES[3:]:
        story.history.logs[-1].message(*message)


def one_is_stored_twice(story: Story) -> None:
    story.stream.append(("7-0", b"3"))
    story.log.message("7-0", b"3")


def a_repeat_is_stored_twice(story: Story) -> None:
    story.history.sent("p", "c", "m6-0", b"6").acks.append("7-0")
    story.stream.append(("7-0", b"6"))
    story.log.message("7-0", b"6")


def one_is_delivered_twice(story: Story) -> None:
    story.log.events.insert(3, ENTRIES[2])


def two_are_delivered_in_the_wrong_order(story: Story) -> None:
    story.log.events[2], story.log.events[3] = story.log.events[3], story.log.events[2]


def two_are_stored_in_the_wrong_order(story: Story) -> None:
    story.stream[1:3] = [("2-0", b"3"), ("3-0", b"2")]
    story.sends[1].acks, story.sends[2].acks = ["3-0"], ["2-0"]
    story.log.events[1:3] = story.stream[1:3]


def nobody_sent_one(story: Story) -> None:
    story.stream.append(("7-0", b"7"))
    story.log.message("7-0", b"7")


def one_that_never_was_is_delivered(story: Story) -> None:
    story.log.message("7-0", b"7")


def one_is_delivered_with_another_body(story: Story) -> None:
    story.log.events[2] = "3-0", b"2"


def the_ack_names_another_entry(story: Story) -> None:
    story.sends[2].acks[:] = ["4-0"]


def a_refused_one_is_there(story: Story) -> None:
    story.sends[2].acks.clear()
    story.sends[2].not_stored = 1


def one_has_no_answer(story: Story) -> None:
    story.history.sent("p", "c", "m7", b"7")


def one_has_two_answers(story: Story) -> None:
    story.sends[2].unknown = 1


def a_gap_is_not_told(story: Story) -> None:
    story.remove(4)
    story.subscriber("2-0", *ENTRIES[4:])


def a_gap_at_the_end_is_not_told(story: Story) -> None:
    story.remove(6)
    story.subscriber("2-0")


def a_gap_is_told_too_late(story: Story) -> None:
    story.remove(4)
    story.subscriber("2-0", ENTRIES[4]).gap("2-0", "5-0", "trimmed")
    story.history.logs[-1].message(*ENTRIES[5])


def a_notice_of_nothing(story: Story) -> None:
    story.log.events.insert(2, Gap("2-0", "3-0", "trimmed"))


def a_notice_of_a_reset_that_was_none(story: Story) -> None:
    story.log.gap("6-0", "1-0", "reset")
    for message in ENTRIES:
        story.log.message(*message)


def a_reset_that_skips_the_beginning(story: Story) -> None:
    story.reset(("1-0", b"new"), ("2-0", b"newer"))
    story.log.gap("6-0", "1-0", "reset")
    story.log.message("2-0", b"newer")


WRONG: list[tuple[Callable[[Story], None], Kind]] = [
    (an_acked_one_is_not_there, "lost"),
    (one_is_not_delivered, "lost"),
    (the_last_one_is_not_delivered, "lost"),
    (one_is_skipped_behind_a_notice, "lost"),
    (a_reset_that_skips_the_beginning, "lost"),
    (one_is_stored_twice, "duplicated"),
    (a_repeat_is_stored_twice, "duplicated"),
    (one_is_delivered_twice, "duplicated"),
    (two_are_delivered_in_the_wrong_order, "reordered"),
    (two_are_stored_in_the_wrong_order, "reordered"),
    (nobody_sent_one, "phantom"),
    (one_that_never_was_is_delivered, "phantom"),
    (one_is_delivered_with_another_body, "wrong body"),
    (the_ack_names_another_entry, "false ack"),
    (a_refused_one_is_there, "false not_stored"),
    (one_has_no_answer, "unanswered"),
    (one_has_two_answers, "answered twice"),
    (a_gap_is_not_told, "gap without notice"),
    (a_gap_at_the_end_is_not_told, "gap without notice"),
    (a_gap_is_told_too_late, "gap without notice"),
    (a_notice_of_nothing, "notice without gap"),
    (a_notice_of_a_reset_that_was_none, "notice without gap"),
]


@pytest.mark.parametrize(("change", "kind"), WRONG)
def test_a_wrong_history(change: Callable[[Story], None], kind: Kind) -> None:
    story = Story()
    change(story)
    assert kind in {finding.kind for finding in story.judge()}
    with pytest.raises(AssertionError, match=rf"seed 1: .*{kind}"):
        story.history.check({"c": story.stream})


def test_every_kind_of_breach_is_planted() -> None:
    assert {kind for _, kind in WRONG} == set(get_args(Kind))


def test_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert History().seed != History().seed
    assert History(5).chance.random() == History(5).chance.random()
    monkeypatch.setenv("FAULT_SEED", "7")
    assert History().seed == 7


# --- what it writes down, with a gateway ---


@async_test
async def test_what_clients_write_down_is_what_happened(redis_server: RedisServer, channel: str) -> None:
    history = History()
    add(redis_server, channel, '"before"')
    async with gateway(redis_server.url) as server:
        publisher = Publisher(history, "p", [server.url], channel, once=False)
        subscriber = Subscriber(history, "s", [server.url], channel, start="$")
        reading = asyncio.create_task(subscriber.run())
        await until(lambda: subscriber.position != "$")
        over = asyncio.Event()
        publishing = asyncio.create_task(publisher.run(over))
        await until(lambda: publisher.acked >= 100)
        over.set()
        await publishing
        stream = stream_of(redis_server, channel)
        await subscriber.reached(stream[-1][0])
        reading.cancel()
        await asyncio.wait([reading])
    history.sent("add", channel, "", b'"before"').acks.append(stream[0][0])
    history.check({channel: stream})
    # And the streams of somebody else's story are not: the check is not empty.
    assert {finding.kind for finding in history.judge({channel: stream[:50] + stream[51:]})} == {"lost", "phantom"}
    assert len(history.sends) >= 101
    assert len(subscriber.log.events) == len(stream) - 1


# --- the proofs ---


def test_the_documentation_names_each_proof() -> None:
    text = (Path(__file__).parent.parent / "docs" / "guarantees.md").read_text()
    assert set(re.findall(r"`prove\.py ([a-z-]+)`", text)) == set(prove.PROOFS)


@pytest.mark.parametrize(("name", "code"), [("kept", 0), ("missed", 1), ("broken", 1)])
def test_a_figure_that_is_missed_is_the_exit_code(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def kept(proof: Proof) -> None:
        proof.none("lost", 0)
        assert proof.seed == 7

    async def missed(proof: Proof) -> None:
        proof.none("lost", 1)

    async def broken(proof: Proof) -> None:
        raise TimeoutError

    monkeypatch.setattr(prove, "PROOFS", {"kept": kept, "missed": missed, "broken": broken})
    monkeypatch.setattr(sys, "argv", ["prove.py", "kept", name, "--seed", "7"])
    assert prove.main() == code
    shown = capsys.readouterr().out
    assert "seed 7" in shown
    assert ("MISSED" in shown) is bool(code)


# --- the kit ---


@async_test
async def test_the_proxy_carries_cuts_and_swallows(redis_server: RedisServer, channel: str) -> None:
    history = History()
    async with gateway(redis_server.url) as server, Proxy(int(server.url.rpartition(":")[2])) as front:
        url = f"ws://127.0.0.1:{front.port}"
        client = Client(await open_anywhere([url], history.chance))
        loop = asyncio.get_running_loop()
        for ways in ((Way.UP,), (Way.DOWN,), ()):
            with front.black_hole(*ways):
                await client.send(action="ping")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await client.websocket.recv()
            await client.expect('{"status":"pong"}')
        started = loop.time()
        with front.delayed(0.1):
            await client.nothing_more()
        assert loop.time() - started > 0.15
        started = loop.time()
        with front.limited(100_000):
            await client.publish(channel, "x" * 20_000)
        assert loop.time() - started > 0.15
        front.cut()
        assert (await client.closed())[0] == 1006
        with front.refusing():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await open_anywhere([url], history.chance)
            assert front.connections == 1
        client = Client(await open_anywhere([url], history.chance))
        await client.nothing_more()
        await client.websocket.close()


@async_test
async def test_servers_are_as_before_after_a_fault(own_redis: RedisServer, channel: str) -> None:
    with configured(own_redis, "maxmemory", "100mb"):
        assert own_redis.call("CONFIG", "GET", "maxmemory")[1] == b"104857600"
    assert own_redis.call("CONFIG", "GET", "maxmemory")[1] == b"0"
    with demoted(own_redis):
        assert own_redis.call("ROLE")[0] == b"slave"
    assert own_redis.call("ROLE")[0] == b"master"
    before = command_calls(own_redis, "xadd")
    add(own_redis, channel, "1")
    own_redis.call("EVAL", "return redis.call('XADD', KEYS[1], '*', 'a', '1')", 1, channel)
    assert command_calls(own_redis, "xadd") == before + 2
    assert command_calls(own_redis, "xrange") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_that_was_inherited_ignored_ends_a_process_of_a_test(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        heed_signals()
        with run_python("print(flush=True); input()") as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(number)
            assert process.wait(10) != 0
    finally:
        signal.signal(number, before)
