"""Proof that the console stays smooth, whatever it has to show."""

from __future__ import annotations

import asyncio

from kit.console import Console, console_browser
from kit.load import GatewayProcess, load
from kit.page import eventually_in_thread
from kit.proofs.proof import CHANNEL, Proof
from kit.support import RedisServer

CHANNELS, PER_S, LIVE_S = 10_000, 1_000, 20
LONGEST_MS = 100

_MAKE = f"for n = 1, {CHANNELS - 1} do redis.call('XADD', 'c' .. n, '*', 'messageData', '1') end"
_WATCH_FRAMES = """
    globalThis.longest = 0;
    let last = performance.now();
    requestAnimationFrame(function next() {
        const now = performance.now();
        longest = Math.max(longest, now - last);
        last = now;
        requestAnimationFrame(next);
    });
"""
_SCROLL = """
    const list = document.getElementById("channel-list"), started = performance.now();
    longest = 0;
    return new Promise((resolve) => requestAnimationFrame(function next(now) {
        list.scrollTop = (list.scrollTop + 400) % (list.scrollHeight - list.clientHeight);
        if (now - started < 10_000) requestAnimationFrame(next);
        else resolve(longest);
    }));
"""


async def console(proof: Proof) -> None:
    """The console in Chromium: 10,000 channels, and one open at 1,000 messages/s; then the list is scrolled, too."""
    proof.total(LIVE_S)
    with RedisServer() as redis, GatewayProcess(redis) as gateway, console_browser() as browser:
        page = Console(browser, f"http://127.0.0.1:{gateway.port}/")
        redis.call("EVAL", _MAKE, 0)
        with load(redis, PER_S, CHANNEL, padding_bytes=200):
            await asyncio.to_thread(page.open, CHANNEL)
            await eventually_in_thread(lambda: f"{CHANNELS:,}" in page.text("channel-count"))
            await asyncio.to_thread(page.run, _WATCH_FRAMES)
            await proof.sleep(LIVE_S)
            live = await asyncio.to_thread(page.run, "return longest")
            scrolling = await asyncio.to_thread(page.run, _SCROLL)
        stored = redis.call("XLEN", CHANNEL)
        last = f'{{"n":{stored - 1},'
        await eventually_in_thread(lambda: page.messages[-1].startswith(last))
        rows = await asyncio.to_thread(page.run, "return document.querySelectorAll('.body > [role=row]').length")
        faults = await asyncio.to_thread(lambda: page.faults)
    wanted = f"< {LONGEST_MS} ms"
    proof.figure("messages, the last one shown", stored, f"> {PER_S * LIVE_S:,}", stored > PER_S * LIVE_S)
    proof.figure("longest frame while they come", live, wanted, live < LONGEST_MS, " ms")
    proof.figure("and while the list is scrolled", scrolling, wanted, scrolling < LONGEST_MS, " ms")
    proof.figure("rows that exist", rows, "< 200", rows < 200)
    proof.none("errors of the page", len(faults))
