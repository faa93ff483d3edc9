"""``rsws copy``: copy streams from one Redis to another, and go on with what comes."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from rsws.cli import channel_names, terminal
from rsws.cli.data import check_channel
from rsws.cli.endpoint import redis_of
from rsws.cli.exits import ExitCode, Failure, epilog, wire_error
from rsws.cli.options import from_settings
from rsws.errors import LoginRefused, RedisUnavailable, UsageError
from rsws.settings import Settings
from rsws.text import counted

if TYPE_CHECKING:
    from rsws.redis.target import RedisTarget
    from rsws.streams.copying import Copier
    from rsws.streams.router import Router

EPILOG = epilog(
    "rsws copy redis://old redis://new",
    "rsws copy @old.url @new.url 'chat.*' news",
    "rsws copy redis://old redis+cluster://a,b,c --no-follow",
)
STATUS_S = 1.0
"""How often the line at the bottom of a terminal changes."""
SAID_S = 10.0
"""How often a line is written where there is no terminal, if there is anything new to say."""
SHOWN_STREAMS = 20
"""Of how many streams the summary names the last id."""
_URL_HELP = "as REDIS_URL has it; @FILE for a URL with a password, which `ps` would show."


@from_settings(Settings, panel="Redis", only=("redis_tls_ca", "redis_tls_cert", "redis_tls_key", "redis_timeout_s"))
def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help=f"The Redis to copy from, {_URL_HELP}")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The Redis to copy to, likewise.")],
    settings: Settings,
    channels: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHANNEL",
            help="What to copy: names, or patterns such as 'chat.*'. Not given: all.",
            autocompletion=channel_names.at_source,
        ),
    ] = None,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", help="Stop once all is copied; else go on with what comes until Ctrl-C.")
    ] = False,
) -> None:
    """Copy streams from one Redis to another, with all fields and with their ids, and go on with what comes.

    It can be stopped and started again: it goes on after what is there. Nothing is stored twice, and a stream that has
    other entries at DST is refused. New streams are found while it runs. How to move without an outage with it says
    docs/moving.md.
    """
    for each in channels or ():
        check_channel(each)
    if source == target:
        raise UsageError("SRC and DST are the same")
    ends = redis_of(source, "SRC", settings), redis_of(target, "DST", settings)
    asyncio.run(_Copying(channels or [], follow=not no_follow).run(*ends))


class _Copying:
    """One run of the command, and what it says.

    Args:
        patterns: What to copy.
        follow: Whether to go on until told to stop.
    """

    def __init__(self, patterns: list[str], *, follow: bool) -> None:
        self._patterns = patterns
        self._follow = follow
        self._told: signal.Signals | None = None
        self._copier: Copier | None = None

    async def run(self, source: RedisTarget, target: RedisTarget) -> None:
        """Copy.

        Raises:
            RswsError: Something was not copied, or Ctrl-C has ended it.
        """
        from rsws.streams.copying import Copier

        main = asyncio.current_task()
        assert main is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number, main)
        try:
            async with AsyncExitStack() as stack:
                from_, to = await self._reach(stack, "SRC", source), await self._reach(stack, "DST", target)
                self._copier = Copier(from_, to, self._patterns, self._warn)
                saying = asyncio.create_task(self._say())
                try:
                    await self._copier.run(follow=self._follow)
                finally:
                    saying.cancel()
                    with suppress(asyncio.CancelledError):
                        await saying
        except asyncio.CancelledError:
            pass  # told twice, or before it could begin
        finally:
            if self._copier is not None:
                self._say_end(self._copier)
        self._judge()

    async def _reach(self, stack: AsyncExitStack, which: str, redis: RedisTarget) -> Router:
        """Return a router of one side.

        Raises:
            Failure: It can't be reached.
            LoginRefused: It refused the login.
        """
        from rsws.streams.copying import running

        try:
            return await stack.enter_async_context(running(redis, self._warn))
        except RedisUnavailable as error:
            raise Failure(
                f"{which}: {wire_error(error.cause.rstrip('.'), error.code)}", ExitCode.NOT_CONNECTED
            ) from None
        except LoginRefused as error:
            raise LoginRefused(f"{which}: {error}") from None

    def _stop(self, number: signal.Signals, main: asyncio.Task[None]) -> None:
        if self._copier is None or self._told is not None:
            main.cancel()
        else:
            self._copier.stop()
        self._told = self._told or number

    def _judge(self) -> None:
        progress = self._copier.progress if self._copier is not None else None
        if progress is not None and progress.refused:
            raise Failure(
                f"{counted(progress.refused, 'stream is', 'streams are')} not copied, see above", ExitCode.ERROR
            )
        if self._told is signal.SIGINT:
            raise Failure("interrupted: the same command goes on where it was", ExitCode.INTERRUPTED)
        if self._copier is not None and not self._follow and (missing := len(self._copier.missing)):
            raise Failure(f"{counted(missing, 'stream is', 'streams are')} not there, see above", ExitCode.ERROR)
        if progress is not None and progress.gaps:
            raise Failure(f"{counted(progress.gaps, 'gap', 'gaps')}, see above", ExitCode.GAP)

    def _warn(self, text: str) -> None:
        terminal.print_line(terminal.format_warning(text))

    @property
    def _text(self) -> str:
        if self._copier is None:
            return ""
        progress = self._copier.progress
        entries, streams = counted(progress.copied, "entry", "entries"), counted(progress.streams, "stream", "streams")
        there = f" ({progress.there:,} were there)" if progress.there else ""
        refused = f", {progress.refused:,} refused" if progress.refused else ""
        return f"copied {entries} of {streams}{there}{refused}, behind {progress.behind:,}"

    async def _say(self) -> None:
        """Say how far it is, as long as it runs."""
        with terminal.StatusLine() as line:
            said, was_level, waited_s = "", False, SAID_S - STATUS_S
            while self._copier is not None:
                await asyncio.sleep(STATUS_S)
                waited_s += STATUS_S
                line.set(self._text)
                is_level = self._copier.progress.is_level
                if not line.is_shown and self._text != said and (waited_s >= SAID_S or is_level != was_level):
                    said, was_level, waited_s = self._text, is_level, 0.0
                    terminal.print_line(terminal.format_note(said))

    def _say_end(self, copier: Copier) -> None:
        shown = sorted(copier.streams.values(), key=lambda each: each.name)
        for each in shown[:SHOWN_STREAMS]:
            if each.position is not None:
                terminal.print_line(terminal.format_note(f"{each.name}: {each.copied:,} copied, up to {each.position}"))
        if len(shown) > SHOWN_STREAMS:
            terminal.print_line(terminal.format_note(f"and {len(shown) - SHOWN_STREAMS:,} more streams"))
        terminal.print_line(terminal.format_note(self._text))
