"""A page in Chromium, with rsws.js or EventSource: the gateway is killed, the network cut, the page frozen."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from kit.browser import Browser
from kit.faults import Proxy
from kit.gateway import KEY, add
from kit.load import GatewayProcess
from kit.support import RedisServer

PUBLISHED = "published"
"""The channel that the page publishes to."""
LONGEST_S = 7.0
"""A silence in which the page gives the connection up: 5 s without a pong, and the next attempt."""


@dataclass(frozen=True)
class Script:
    """What runs in the page.

    It notes in ``got`` the ids of each channel's messages, in ``acked`` those of what it publishes.
    """

    start: str
    is_open: str
    all_answered: str
    """Whether all publishes have been answered, or a promise of it."""
    close: str
    ports: int = 1
    """Over how many ports it reaches the gateway."""


RSWS_JS = Script(
    start="""
        const [ports, token, channels, published, options] = arguments;
        return import("/rsws.js").then(({ connect }) => {
            Object.assign(globalThis, { got: {}, acked: {}, failed: [], told: [] });
            const url = `ws://127.0.0.1:${ports[0]}`;
            globalThis.client = connect(url, { token, onEvent: (event) => told.push(event), ...options });
            for (const channel of channels) {
                got[channel] = [];
                const onMessages = (all) => got[channel].push(...all.map(({ id }) => id));
                client.subscribe(channel, { after: "0", onMessages });
            }
            let count = 0;
            globalThis.publishing = setInterval(() => {
                const number = ++count;
                client.publish(published, number, { timeout: 90_000 }).then(
                    (id) => (acked[number] = id),
                    ({ message, outcome }) => failed.push(`${number}: ${message} (${outcome})`),
                );
            }, 20);
        });
    """,
    is_open="return client.status === 'open'",
    all_answered="return client.publish('last', 1)",
    close="client.close()",
)
EVENT_SOURCE = Script(
    start="""
        const [ports, token, channels, published] = arguments;
        Object.assign(globalThis, { got: {}, acked: {}, failed: [], told: [] });
        globalThis.sources = channels.map((channel, number) => {
            const url = `http://127.0.0.1:${ports[number % (ports.length - 1)]}/channels/${channel}`;
            const source = new EventSource(`${url}?from=0&token=${token}`);
            got[channel] = [];
            source.onmessage = ({ lastEventId }) => got[channel].push(lastEventId);
            source.addEventListener("gap", () => told.push({ event: "gap" }));
            if (number === 0) source.onopen = () => told.push({ event: "status", status: "open" });
            return source;
        });
        const pause = () => new Promise((resolve) => setTimeout(resolve, 200));
        const publish = async (number) => {
            const headers = { authorization: `Bearer ${token}`, "idempotency-key": `page ${number}` };
            for (;; await pause()) {
                const signal = AbortSignal.timeout(5_000);  // Chromium may leave what was under way in a frozen page
                const request = { method: "POST", body: JSON.stringify(number), headers, signal };
                const answer = await fetch(`http://127.0.0.1:${ports.at(-1)}/channels/${published}`, request)
                    .then((response) => response.json())
                    .catch(() => null);
                if (answer?.streamId) return (acked[number] = answer.streamId);
                if (answer) failed.push(`${number}: ${JSON.stringify(answer)}`);
            }
        };
        globalThis.publishing = setInterval(() => {
            if (publishes.length < 10_000) publishes.push(publish(publishes.length + 1));
        }, 50);
        globalThis.publishes = [];
    """,
    is_open="return sources.every(({ readyState }) => readyState === EventSource.OPEN)",
    all_answered="return Object.keys(acked).length === publishes.length",
    close="sources.forEach((source) => source.close())",
    ports=6,  # Chromium opens six connections at most to each, over HTTP/1.1; the last one is for publishes
)


@dataclass
class Findings:
    """What the page got, beside what is in the streams."""

    written: int
    lost: int
    repeated: int
    reordered: int
    after_close: int
    gaps: int
    reconnected: int
    published: int
    failed: list[str]
    """Publishes that were not acked, and why."""
    stored_twice: int
    false_acks: int


def online(browser: Browser, is_online: bool) -> None:
    browser.devtools(
        "Network.emulateNetworkConditions",
        offline=not is_online,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )


async def storm(
    chance: random.Random,
    *,
    channels: int,
    kills: int,
    cuts: int,
    freezes: int,
    silences: int = 0,
    pause_s: float = 0.5,
    script: Script = RSWS_JS,
    options: dict[str, Any] | None = None,
    done: Callable[[], None] = lambda: None,
) -> Findings:
    """Let a page go through everything, in a random order.

    Args:
        kills: How often the gateway gets a ``kill -9``.
        cuts: How often the network is cut: the page is told that it is offline.
        freezes: How often the page is hidden and frozen, while the gateway is killed or not.
        silences: How often the network swallows everything, for longer than the page waits for a pong.
        pause_s: The longest pause between two of them.
        script: What the page uses.
        options: Those of ``connect`` in the page.
        done: Called after each of them.
    """
    names = [f"page-{number}" for number in range(channels)]
    with RedisServer() as redis, GatewayProcess(redis) as gateway, Browser() as browser:
        async with AsyncExitStack() as stack:
            links = [await stack.enter_async_context(Proxy(gateway.port)) for _ in range(script.ports)]

            async def restart() -> None:
                gateway.kill()
                await asyncio.sleep(chance.uniform(0, 0.3))
                gateway.start()
                await asyncio.to_thread(gateway.wait_until_up)

            async def cut() -> None:
                await asyncio.to_thread(online, browser, False)
                with ExitStack() as cuts:
                    for link in links:
                        cuts.enter_context(link.refusing())
                    await asyncio.sleep(chance.uniform(0.1, 0.6))
                await asyncio.to_thread(online, browser, True)

            async def freeze() -> None:
                await asyncio.to_thread(browser.devtools, "Page.setWebLifecycleState", state="frozen")
                await asyncio.sleep(0.2)
                if chance.random() < 0.7:
                    await restart()
                await asyncio.sleep(chance.uniform(0, 0.5))
                await asyncio.to_thread(browser.devtools, "Page.setWebLifecycleState", state="active")
                if chance.random() < 0.5:  # else it stays hidden
                    await asyncio.to_thread(browser.switch_to, browser.tab)

            async def silence() -> None:
                with links[0].black_hole():
                    await asyncio.to_thread(browser.run, "client.wake()")
                    await asyncio.sleep(LONGEST_S)

            async def write() -> None:
                while True:
                    for name in names:
                        add(redis, name, '{"text":"hi"}')
                    await asyncio.sleep(0.02)

            await asyncio.to_thread(browser.open, f"http://127.0.0.1:{links[0].port}/healthz")
            ports = [link.port for link in links]
            await asyncio.to_thread(browser.run, script.start, ports, KEY, names, PUBLISHED, options or {})
            await asyncio.to_thread(browser.devtools, "Network.enable")
            writing = asyncio.create_task(write())
            steps = [restart] * kills + [cut] * cuts + [freeze] * freezes + [silence] * silences
            chance.shuffle(steps)
            for step in steps:
                await eventually_in_thread(lambda: browser.run(script.is_open), 120)
                await step()
                await asyncio.sleep(chance.uniform(0, pause_s))
                done()
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            await asyncio.to_thread(browser.run, "clearInterval(publishing)")
            await asyncio.to_thread(browser.devtools, "Page.bringToFront")  # timers of a hidden page are rare

            streams = {name: ids_of(redis, name) for name in names}
            last = {name: ids[-1] for name, ids in streams.items()}

            def has_everything() -> bool:
                script = "return Object.keys(arguments[0]).every((name) => got[name].at(-1) === arguments[0][name])"
                return bool(browser.run(script, last))

            await eventually_in_thread(has_everything)
            got = await asyncio.to_thread(browser.run, "return got")
            await eventually_in_thread(lambda: bool(browser.run(script.all_answered)))
            told = await asyncio.to_thread(browser.run, "return told.map(({ event, status }) => [event, status])")
            acked = await asyncio.to_thread(browser.run, "return acked")
            failed = await asyncio.to_thread(browser.run, "return failed")

            await asyncio.to_thread(browser.run, script.close)
            counted = "return Object.values(got).reduce((count, ids) => count + ids.length, 0)"
            before = await asyncio.to_thread(browser.run, counted)
            for name in names:
                add(redis, name, "1")
            await asyncio.sleep(0.3)
            after_close = await asyncio.to_thread(browser.run, counted) - before

        entries = redis.call("XRANGE", PUBLISHED, "-", "+")
        stored = Counter(int(fields[1]) for _, fields in entries)
        place = {id.decode(): int(fields[1]) for id, fields in entries}
    return Findings(
        written=sum(map(len, streams.values())),
        lost=sum(len({*streams[name]} - {*got[name]}) for name in names),
        repeated=sum(len(got[name]) - len({*got[name]}) for name in names),
        reordered=sum(is_reordered(got[name], streams[name]) for name in names),
        after_close=after_close,
        gaps=sum(event == "gap" for event, _ in told),
        reconnected=sum(status == "open" for _, status in told) - 1,
        published=len(acked),
        failed=failed,
        stored_twice=sum(count > 1 for count in stored.values()),
        false_acks=sum(place.get(id) != int(number) for number, id in acked.items()),
    )


def is_reordered(got: list[str], stream: list[str]) -> bool:
    first = dict.fromkeys(got)  # without repeats
    return [*first] != [id for id in stream if id in first]


def ids_of(redis: RedisServer, channel: str) -> list[str]:
    return [id.decode() for id, _ in redis.call("XRANGE", channel, "-", "+")]


async def eventually_in_thread(condition: Callable[[], bool], within_s: float = 60) -> None:
    """Wait until ``condition``, which blocks, is true."""
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
