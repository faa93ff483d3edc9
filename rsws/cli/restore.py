"""``rsws restore``: write what ``rsws sub -o json`` has printed back into streams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from rsws.cli import channel_names, stdio, terminal
from rsws.cli.data import check_channel
from rsws.cli.endpoint import REDIS_OPTIONS, find_redis
from rsws.cli.exits import MAY_BE_STORED, ExitCode, Failure, describe, epilog, exit_code
from rsws.cli.options import from_settings
from rsws.cli.progress_display import Meter
from rsws.errors import Outcome, StoreError, UsageError
from rsws.options import KIB
from rsws.protocol import END_FIELD, FIELD, ZERO, StreamId, channel_fault, is_json
from rsws.settings import Settings
from rsws.text import counted, excerpt, one_line

if TYPE_CHECKING:
    from rsws.redis.target import RedisTarget
    from rsws.streams.inserting import Inserter
    from rsws.streams.replies import Entry

EPILOG = epilog(
    "rsws sub news --from 0 --no-follow -o json > news.jsonl; rsws restore < news.jsonl",
    "rsws restore --rename news=old.news < news.jsonl",
    "rsws restore --new-ids --redis-url redis://10.0.0.7 < news.jsonl",
)
WINDOW_ENTRIES = 500
WINDOW_BYTES = 256 * KIB
"""How much of a channel is written in one go."""
READ_AHEAD_BYTES = 1024 * KIB
"""How much is read before it is written, as the lines of several channels may take turns."""


@from_settings(Settings, panel="Redis", only=REDIS_OPTIONS)
def restore(
    settings: Settings,
    new_ids: Annotated[
        bool,
        typer.Option("--new-ids", help="Give each entry a new id at the end of its stream; twice is then twice there."),
    ] = False,
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write all into this channel, whatever the lines say.",
            autocompletion=channel_names.in_redis,
        ),
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Write the channel OLD as NEW; may be repeated.")
    ] = None,
    maxlen: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Keep about the N newest messages of each stream.")
    ] = None,
    field: Annotated[
        str, typer.Option(metavar="FIELD", help="The field that holds the message, as `rsws serve --field` has it.")
    ] = FIELD,
) -> None:
    """Read what `rsws sub --from 0 --no-follow -o json` has printed, and write it into streams of Redis.

    Each entry gets the id that it had. What is there already is passed over, so that it can be done again, and goes on
    where it was interrupted. An entry that would stand before others that are there is refused, and of its channel
    nothing after it is written.
    """
    if field in ("", END_FIELD):
        raise UsageError("--field: a field's name, but not `end`, which ends the channel")
    names = _names(channel, rename or ())
    restoring = _Restoring(new_ids=new_ids, channel=channel, names=names, maxlen=maxlen, data_field=field.encode())
    asyncio.run(restoring.run(find_redis(settings)))


def _names(channel: str | None, rename: Iterable[str]) -> dict[str, str]:
    """Return what the channels are to be called, by what they were called."""
    names = {}
    for each in rename:
        old, is_there, new = each.partition("=")
        if not is_there or channel is not None:
            raise UsageError("--rename: OLD=NEW, and not together with --channel")
        check_channel(new)
        names[old] = new
    if channel is not None:
        check_channel(channel)
    return names


class _Line(msgspec.Struct):
    """What is used of a line."""

    channel: str
    data: msgspec.Raw
    id: str = ""


_decoder = msgspec.json.Decoder(_Line)


@dataclass
class _Window:
    """Lines of one channel that are written in one go, with their numbers."""

    entries: list[Entry] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    size: int = 0


@dataclass(kw_only=True)
class _Restoring:
    """One run of the command, and how far it has come."""

    new_ids: bool
    channel: str | None
    names: Mapping[str, str]
    maxlen: int | None
    data_field: bytes
    stored: int = 0
    there: int = 0
    older: int = 0
    channels: set[str] = field(default_factory=set)
    refused: dict[str, int] = field(default_factory=dict)
    """The lines from which on nothing was written of a channel."""
    next_line: int = 1

    async def run(self, target: RedisTarget) -> None:
        """Restore all of standard input.

        Raises:
            RswsError: Something of it was not restored.
        """
        from rsws.streams.copying import running
        from rsws.streams.inserting import Inserter, Persistence

        persistence = Persistence(target.timeout_s, _told)
        try:
            async with running(target, lambda _: None) as streams:
                inserter = Inserter(streams, persistence, self._is_same, self.maxlen)
                with Meter(stdio.stdin_size(), "entries") as meter:
                    await self._read(inserter, meter)
        except asyncio.CancelledError:
            raise Failure(f"interrupted: {self.summary}; {self._goes_on}", ExitCode.INTERRUPTED) from None
        except UsageError as error:
            raise UsageError(f"{error}; before it {self.summary}") from None
        except StoreError as error:
            if error.outcome is Outcome.UNKNOWN and self.new_ids:
                raise Failure(f"{describe(error)}; {self.summary}", exit_code(error)) from None
            text = describe(error).removeprefix("not stored: ").removesuffix(MAY_BE_STORED)
            raise Failure(f"{text}; {self.summary}, {self._goes_on}", exit_code(error)) from None
        terminal.print_line(terminal.format_note(self.summary))
        if self.refused:
            lines = ", ".join(f"{name} from line {line:,} on" for name, line in list(self.refused.items())[:10])
            more = f" and {len(self.refused) - 10:,} more channels" if len(self.refused) > 10 else ""
            raise Failure(f"refused, as it would change what is there: {lines}{more}", ExitCode.ERROR)

    @property
    def summary(self) -> str:
        """How far it has come, in words."""
        aside = [f"{self.there:,} were there"] if self.there else []
        aside += [f"{self.older:,} are older than what is kept"] if self.older else []
        entries, channels = counted(self.stored, "entry", "entries"), counted(len(self.channels), "channel", "channels")
        return f"restored {entries} of {channels}" + (f" ({', '.join(aside)})" if aside else "")

    @property
    def _goes_on(self) -> str:
        if self.new_ids:
            return f"line {self.next_line:,} on is not stored"
        return "the same command goes on where it was"

    async def _read(self, inserter: Inserter, meter: Meter) -> None:
        """Read all lines, and have them written while the next are read."""
        writing: asyncio.Task[None] | None = None
        windows: dict[str, list[_Window]] = {}
        size, last = 0, 0
        fault: UsageError | None = None
        try:
            async for batch in stdio.read_lines():
                for line in batch:
                    try:
                        size += self._add(line, windows)
                    except UsageError as error:
                        fault = error
                        break
                    last = line.number
                    if size >= READ_AHEAD_BYTES:
                        await _done(writing)
                        writing = asyncio.create_task(self._write(inserter, windows, last, meter, size))
                        windows, size = {}, 0
                if fault is not None:
                    break
            await _done(writing)
            writing = None
            await self._write(inserter, windows, last, meter, size)
        finally:
            if writing is not None:
                writing.cancel()
                await asyncio.wait([writing])
        if fault is not None:
            raise fault

    def _add(self, line: stdio.Line, windows: dict[str, list[_Window]]) -> int:
        """Put a line where it belongs, and return its length.

        Raises:
            UsageError: It is no line of a dump.
        """
        channel, entry = self._parse(line)
        if channel in self.refused:
            return len(line.text)
        of_channel = windows.setdefault(channel, [])
        if not of_channel or len(of_channel[-1].entries) >= WINDOW_ENTRIES or of_channel[-1].size >= WINDOW_BYTES:
            of_channel.append(_Window())
        window = of_channel[-1]
        window.entries.append(entry)
        window.numbers.append(line.number)
        window.size += len(line.text)
        return len(line.text)

    def _parse(self, line: stdio.Line) -> tuple[str, Entry]:
        from rsws.redis.connection import pack
        from rsws.streams.inserting import ANY_ID
        from rsws.streams.replies import Entry

        try:
            said = _decoder.decode(line.text)
            stream_id = ZERO if self.new_ids else StreamId.parse(said.id)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            shown = excerpt(line.text[:60].decode(errors="replace"))
            raise UsageError(f"line {line.number:,} is none of `rsws sub -o json` ({error}): {shown}") from None
        data = bytes(said.data)
        if not is_json(data):
            raise UsageError(f"line {line.number:,}: its data is no JSON that can be published")
        if stream_id == ZERO and not self.new_ids:
            raise UsageError(f"line {line.number:,}: no entry can have the id 0-0")
        channel = self.channel or self.names.get(said.channel, said.channel)
        if (fault := channel_fault(channel)) is not None:
            raise UsageError(f"line {line.number:,}: {fault}")
        raw_id = ANY_ID if self.new_ids else str(stream_id).encode()
        return channel, Entry(raw_id, pack(self.data_field, data))

    async def _write(
        self,
        inserter: Inserter,
        windows: Mapping[str, list[_Window]],
        last: int,
        meter: Meter,
        size: int,
    ) -> None:
        """Write what was read up to the line ``last``."""
        for channel, of_channel in windows.items():
            self.channels.add(channel)
            for window in of_channel:
                if channel in self.refused:
                    break
                done = await inserter.insert(channel, window.entries)
                self.stored += done.stored
                self.there += done.there
                self.older += done.older
                if done.refusal is not None:
                    line = self.refused[channel] = window.numbers[done.refusal.at]
                    text = f"line {line:,}: {channel}: {done.refusal.why}; nothing after it of that channel is written"
                    terminal.print_line(terminal.format_warning(text))
        self.next_line = last + 1
        meter.set(size, self.stored + self.there + self.older)

    def _is_same(self, there: bytes, ours: bytes) -> bool:
        """Whether an entry that is there has the data that it is to have: printed, it has no line breaks."""
        from rsws.redis.connection import unpack
        from rsws.streams.fields import read_fields

        if there == ours:
            return True
        data, _ = read_fields(unpack(there), self.data_field)
        return data is not None and one_line(data.decode(errors="replace")).encode() == unpack(ours)[1]


async def _done(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        await task


def _told(cause: str | None) -> None:
    text = "Redis works again" if cause is None else f"{cause}; trying again for a while"
    terminal.print_line(terminal.format_warning(text))
