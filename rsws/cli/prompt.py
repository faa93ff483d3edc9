"""The prompt of ``rsws pub CHANNEL`` on a terminal, with the messages of the channels above it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.utils import is_dumb_terminal
from prompt_toolkit.validation import ValidationError, Validator

from rsws.cli import terminal
from rsws.cli.data import SHOWN_CHARACTERS, as_message
from rsws.cli.endpoint import Endpoint
from rsws.cli.exits import describe, wire_error
from rsws.cli.lines import Sending, publish_all
from rsws.cli.start import Following
from rsws.cli.stdio import Line
from rsws.client import Client, ConnectionEvent, Disconnected
from rsws.datadir import DataDir
from rsws.errors import ConnectionLost, PublishFailed, SetupError, SubscribeRefused, UsageError
from rsws.protocol import CaughtUp, Error, Gap, Message, StreamId, is_json
from rsws.starts import Start, parse_start


async def talk(gateway: Endpoint, channel: str, data_dir: DataDir, timeout_s: float) -> bool:
    """Publish what is typed, line by line, until the user ends the prompt.

    Args:
        data_dir: The directory in which the history of the prompt is kept.
        timeout_s: Seconds to wait for an ack.

    Returns:
        Whether Ctrl-C ended the prompt.

    Raises:
        ClientError: There is no connection, or it is lost for good.
        Failure: Ctrl-C ended the prompt while an ack was awaited; the text says what became of the message.
    """
    talk = _Talk(channel, timeout_s, _history(data_dir))
    try:
        async with (
            asyncio.TaskGroup() as tasks,  # outside the client: the tasks of the subscriptions end when the client ends
            gateway.connect(talk.connection_changed) as client,
        ):
            return await talk.run(client, tasks)
    except ExceptionGroup as group:  # an error that ended one subscription ends all; the first one is raised
        raise group.exceptions[0] from None
    except asyncio.CancelledError:
        if talk.sending is None:
            raise
        raise await talk.sending.interrupted() from None


def _history(data_dir: DataDir) -> History:
    try:
        return FileHistory(str(data_dir.create_history()))
    except SetupError as error:
        terminal.print_line(terminal.format_warning(f"no history is kept: {error}"))
        return InMemoryHistory()


class _Command(NamedTuple):
    """A command of the prompt: a line that begins with ``/``."""

    usage: str
    help: str
    run: Callable[[str], Awaitable[None]]


class _Talk:
    """One run of the prompt.

    Args:
        channel: The channel on which lines are published.
        timeout_s: Seconds to wait for an ack.
        history: The lines typed earlier.

    Attributes:
        sending: The message that is being sent; None when there is none.
    """

    def __init__(self, channel: str, timeout_s: float, history: History) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._messages = terminal.MessageFormat([channel])
        self._watched: dict[str, Following] = {}
        self.sending: Sending | None = None
        self._own: set[StreamId] = set()
        """The ids of messages that were published here and have not come back over the subscription."""
        self._publishing = asyncio.Lock()
        self._over = False
        self._commands = {
            "/sub": _Command("/sub CHANNEL", "show what is published on another channel, too", self._sub),
            "/unsub": _Command("/unsub [CHANNEL]", "show it no more", self._unsub),
            "/from": _Command("/from START [CHANNEL]", "show it from 0, an ID, -N, 10m ago or a time on", self._from),
            "/ping": _Command("/ping", "how long the gateway takes to answer", self._ping),
            "/help": _Command("/help", "this list", self._help),
            "/quit": _Command("/quit", "end, as Ctrl-D does", self._quit),
        }
        in_command = Condition(lambda: self._session.default_buffer.text.startswith("/"))
        self._session: PromptSession[str] = PromptSession(
            history=history,
            validator=None if is_dumb_terminal() else _Checked(),  # a dumb terminal would not show what is wrong
            validate_while_typing=False,
            completer=_Completions(self._commands, self._watched),
            complete_while_typing=in_command,  # so that room for the choices is reserved only then
            enable_history_search=~in_command,
        )

    async def run(self, client: Client, tasks: asyncio.TaskGroup) -> bool:
        """Read and publish lines; returns whether Ctrl-C ended it."""
        self._client = client
        self._tasks = tasks
        await self._show_note(f"{client.url}: a line is published on {self._channel}; /help says what else there is")
        self._watch(self._channel, Start())
        colour = "ansi" + self._messages.colour(self._channel).replace("_", "")
        while not self._over:
            try:
                text = await self._session.prompt_async([(f"bold {colour}", terminal.safe(self._channel)), ("", "> ")])
            except EOFError:
                return False
            except KeyboardInterrupt:
                if self._session.default_buffer.text:
                    continue
                return True
            await self._handle_input(text)
        return False

    def connection_changed(self, event: ConnectionEvent) -> None:
        """Show that the connection was lost, or that the client reconnected."""
        if isinstance(event, Disconnected):
            text = terminal.format_disconnected(event.reason)
        else:
            text = terminal.format_reconnected(event.after_s)
        self._tasks.create_task(self._show(text))

    async def _handle_input(self, text: str) -> None:
        """Carry out the lines that were typed or pasted, up to the first that fails."""
        lines = lines_of(text)
        sending = Sending(by_line=len(lines) > 1)
        for number, line in enumerate(lines, 1):
            try:
                if line.startswith("/"):
                    await self._command(line)
                else:
                    await self._publish(sending, Line(number, line.encode()))
            except (UsageError, PublishFailed, SubscribeRefused) as error:
                fault = describe(error)
                if len(lines) > 1:
                    fault = f"line {number}: {fault}"
                if number < len(lines):
                    fault += f"; line {number + 1} on not sent"
                await self._show(terminal.format_error(fault))
                return

    async def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise UsageError(f"{name}: no such command; /help lists them")
        await command.run(argument.strip())

    # --- publish ---

    async def _publish(self, sending: Sending, line: Line) -> None:
        data = _message(line.text)
        began = time.monotonic()
        async with self._publishing:
            self.sending = sending
            send = partial(publish_all, self._client, self._channel, self._timeout_s)
            (stream_id,) = await sending.send_lines(send, [line], [data])
            self.sending = None
            if not isinstance(stream_id, StreamId):
                raise stream_id
            if self._channel in self._watched:
                self._own.add(stream_id)
        await self._show(terminal.format_ack(stream_id, time.monotonic() - began))

    # --- watch ---

    def _watch(self, channel: str, start: Start) -> None:
        following = Following(self._client, channel, start, end=False)
        self._watched[channel] = following
        self._tasks.create_task(self._show_events(channel, following, has_history=start != Start()))

    async def _show_events(self, channel: str, following: Following, *, has_history: bool) -> None:
        try:
            async for event in following:
                match event:
                    case Message():
                        await self._show_message(event)
                    case CaughtUp() if has_history:
                        has_history = False
                        await self._show(terminal.format_rule(f"{channel} live"))
                    case Gap():
                        await self._show(terminal.format_gap(event))
                    case Error(error=text, code=code):
                        await self._show(terminal.format_warning(f"{channel}: {wire_error(text, code)}"))
                    case _:
                        pass  # nothing that the user has to know
        except SubscribeRefused:  # the last event, an Error, has shown why
            if self._watched.get(channel) is following:
                del self._watched[channel]

    async def _show_message(self, message: Message) -> None:
        if message.channel == self._channel:
            async with self._publishing:  # waits for an ack that is still to come: it may be this message's
                if message.id in self._own:
                    self._own.discard(message.id)
                    return
        await self._show(self._messages.format(message))

    # --- commands ---

    async def _sub(self, channel: str) -> None:
        if not channel:
            raise UsageError("/sub CHANNEL: which one?")
        self._watch(channel, Start())

    async def _unsub(self, channel: str) -> None:
        channel = channel or self._channel
        following = self._watched.pop(channel, None)
        if following is None:
            raise UsageError(f"{channel} is not subscribed to")
        await following.close()

    async def _from(self, argument: str) -> None:
        text, _, channel = argument.partition(" ")
        channel = channel.strip() or self._channel
        start = parse_start(text)
        if channel in self._watched:
            await self._unsub(channel)
        self._watch(channel, start)

    async def _ping(self, _: str) -> None:
        try:
            took_s = await self._client.ping()
        except TimeoutError:
            await self._show(terminal.format_error("no answer within 10 s"))
        except ConnectionLost as error:
            await self._show(terminal.format_error(str(error)))
        else:
            await self._show_note(f"{self._client.url} answers within {took_s * 1000:.1f} ms")

    async def _help(self, _: str) -> None:
        width = max(len(command.usage) for command in self._commands.values())
        for command in self._commands.values():
            await self._show_note(f"{command.usage:{width}}  {command.help}")
        await self._show_note('JSON is sent as it is, other text as {"text": ...}; text with a / in front as "/..."')
        await self._show_note('what begins with {, [ or " has to be JSON; of several lines each is a message')

    async def _quit(self, _: str) -> None:
        self._over = True

    # --- show ---

    async def _show_note(self, text: str) -> None:
        await self._show(terminal.format_note(text))

    async def _show(self, what: terminal.Shown) -> None:
        """Print above the prompt, or at the end of the screen while there is none."""
        rendered = terminal.render(what)

        def write() -> None:
            sys.stdout.write(rendered)
            sys.stdout.flush()

        await run_in_terminal(write)


def lines_of(text: str) -> list[str]:
    """Split what was typed or pasted into lines; JSON that spans several lines is one."""
    text = text.strip()
    return (
        [text] if is_json(text.encode()) else [line.strip() for line in re.split(r"\r\n|[\r\n]", text) if line.strip()]
    )


def _message(line: bytes) -> bytes:
    """Return the message that a line stands for: the line itself if it is JSON, else an object with its text.

    Raises:
        UsageError: The line begins like JSON, and is not valid.
    """
    if line.startswith((b"{", b"[", b'"')) and not is_json(line):
        shown = line.decode(errors="replace")[:SHOWN_CHARACTERS]
        raise UsageError(f'not JSON: {shown} - fix it; what begins with {{, [ or " has to be JSON')
    return as_message(line, text=not is_json(line))


class _Checked(Validator):
    """A validator that refuses a line that begins like JSON and is not valid, while the user can still fix it."""

    def validate(self, document: Document) -> None:
        lines = lines_of(document.text)
        for number, line in enumerate(lines, 1):
            try:
                _message(line.encode())
            except UsageError as fault:
                where = f"line {number}: " if len(lines) > 1 else ""
                place = document.text.find(line) + _fault_at(line)
                raise ValidationError(place, terminal.safe(f"{where}{fault}")) from None


def _fault_at(line: str) -> int:
    """Return the position of the error in invalid JSON; the end of the line where none is known."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos
    return len(line)


class _Completions(Completer):
    """A completer for commands and their arguments."""

    def __init__(self, commands: Mapping[str, _Command], watched: Collection[str]) -> None:
        self._commands = commands
        self._watched = watched

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        name, space, argument = document.text_before_cursor.partition(" ")
        if not name.startswith("/"):
            return
        if not space:
            for command, said in self._commands.items():
                if command.startswith(name):
                    yield Completion(command, -len(name), display=said.usage, display_meta=said.help)
            return
        choices = {"/unsub": self._watched, "/from": ("0", "$", "-10", "10m")}.get(name, ())
        for choice in choices:
            if choice.startswith(argument):
                yield Completion(choice, -len(argument))
