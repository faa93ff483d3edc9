"""The prompt of ``rsws pub CHANNEL`` on a terminal, with the messages of the channels above it."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.utils import is_dumb_terminal

from rsws.cli import terminal
from rsws.cli.data import as_message
from rsws.cli.endpoint import Endpoint
from rsws.cli.exits import describe, wire_error
from rsws.cli.lines import Sending, publish_all
from rsws.cli.message_display import MessageFormat, format_ack, format_disconnected, format_gap, format_reconnected
from rsws.cli.prompt.editor import edit
from rsws.cli.prompt.typed import Checked, Command, Completions, check, lines_of, message_of
from rsws.cli.start import Following
from rsws.cli.stdio import Line
from rsws.client import Client, ConnectionEvent, Disconnected
from rsws.datadir import DataDir
from rsws.errors import ConnectionLost, PublishFailed, SetupError, SubscribeRefused, UsageError
from rsws.protocol import CaughtUp, Error, Gap, Message, StreamId, Subscribed
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
    talk = _Talk(gateway, channel, timeout_s, _history(data_dir))
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


class _Talk:
    """One run of the prompt.

    Args:
        gateway: Where it is connected.
        channel: The channel on which lines are published.
        timeout_s: Seconds to wait for an ack.
        history: The lines typed earlier.

    Attributes:
        sending: The message that is being sent; None when there is none.
    """

    def __init__(self, gateway: Endpoint, channel: str, timeout_s: float, history: History) -> None:
        self._gateway = gateway
        self._channel = channel
        self._timeout_s = timeout_s
        self._messages = MessageFormat([channel])
        self._watched: dict[str, Following] = {}
        self.sending: Sending | None = None
        self._own: set[StreamId] = set()
        """The ids of messages that were published here and have not come back over the subscription."""
        self._publishing = asyncio.Lock()
        self._screen = asyncio.Lock()
        """Held while the editor has the terminal."""
        self._lost_since: float | None = None
        self._published = 0
        self._last = ""
        """The last message, or what was edited and could not be sent."""
        self._over = False
        self._commands = {
            "/text": Command("/text TEXT", 'send {"text": TEXT}, whatever it begins with', self._text),
            "/edit": Command(
                "/edit", "write a message in an editor (VISUAL, EDITOR), which begins with the last one", self._edit
            ),
            "/sub": Command("/sub CHANNEL", "show what is published on another channel, too", self._sub),
            "/unsub": Command("/unsub [CHANNEL]", "show it no more", self._unsub),
            "/from": Command("/from START [CHANNEL]", "show it from 0, an ID, -N, 10m ago or a time on", self._from),
            "/ping": Command("/ping", "how long the gateway takes to answer", self._ping),
            "/info": Command("/info", "the gateway, what is shown, and how many were published", self._info),
            "/help": Command("/help", "this list", self._help),
            "/quit": Command("/quit", "end, as Ctrl-D does", self._quit),
        }
        in_command = Condition(lambda: self._session.default_buffer.text.startswith("/"))
        self._session: PromptSession[str] = PromptSession(
            history=history,
            validator=None if is_dumb_terminal() else Checked(),  # a dumb terminal would not show what is wrong
            validate_while_typing=False,
            completer=Completions(self._commands, self._watched),
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
            self._lost_since = time.monotonic()
            text = format_disconnected(event.reason)
        else:
            self._lost_since = None
            text = format_reconnected(event.after_s)
        self._tasks.create_task(self._show(text))

    async def _handle_input(self, text: str) -> None:
        """Carry out the lines that were typed or pasted, up to the first that fails."""
        lines = lines_of(text)
        sending = Sending("line" if len(lines) > 1 else None)
        for number, line in enumerate(lines, 1):
            try:
                if line.startswith("/"):
                    await self._command(line)
                else:
                    await self._publish(sending, Line(number, line.encode()), message_of(line.encode()))
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

    async def _publish(self, sending: Sending, line: Line, data: bytes) -> None:
        self._last = data.decode()
        began = time.monotonic()
        async with self._publishing:
            self.sending = sending
            send = partial(publish_all, self._client, self._channel, self._timeout_s)
            (stream_id,) = await sending.send_lines(send, [line], [data])
            self.sending = None
            if not isinstance(stream_id, StreamId):
                raise stream_id
            self._published += 1
            if self._channel in self._watched:
                self._own.add(stream_id)
        await self._show(format_ack(stream_id, time.monotonic() - began))

    # --- watch ---

    def _watch(self, channel: str, start: Start, *, confirm: bool = False) -> None:
        following = Following(self._client, channel, start, end=False)
        self._watched[channel] = following
        has_history = start != Start()
        self._tasks.create_task(self._show_events(channel, following, has_history=has_history, confirm=confirm))

    async def _show_events(self, channel: str, following: Following, *, has_history: bool, confirm: bool) -> None:
        try:
            async for event in following:
                match event:
                    case Subscribed() if confirm:
                        confirm = False
                        await self._show_note(f"{channel} is shown from now on; /unsub {channel} ends that")
                    case Message():
                        await self._show_message(event)
                    case CaughtUp() if has_history:
                        has_history = False
                        await self._show(terminal.format_rule(f"{channel} live"))
                    case Gap():
                        await self._show(format_gap(event))
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

    async def _text(self, text: str) -> None:
        if not text:
            raise UsageError("/text TEXT: which one?")
        await self._publish(Sending(), Line(1, text.encode()), as_message(text.encode(), text=True))

    async def _edit(self, argument: str) -> None:
        async with self._screen:
            text = await edit(argument or self._last)
        if text is None or not text.strip():
            await self._show_note("nothing was saved, and nothing is sent" if text is None else "empty: not sent")
            return
        try:
            check(text)
        except UsageError as fault:
            self._last = text
            raise UsageError(f"{fault}; /edit opens it again") from None
        await self._handle_input(text)

    async def _sub(self, channel: str) -> None:
        if not channel:
            raise UsageError("/sub CHANNEL: which one?")
        self._watch(channel, Start(), confirm=True)

    async def _unsub(self, channel: str) -> None:
        channel = channel or self._channel
        await self._close(channel)
        await self._show_note(f"{channel} is shown no more")

    async def _close(self, channel: str) -> None:
        following = self._watched.pop(channel, None)
        if following is None:
            raise UsageError(f"{channel} is not subscribed to")
        await following.close()

    async def _from(self, argument: str) -> None:
        text, _, channel = argument.partition(" ")
        channel = channel.strip() or self._channel
        start = parse_start(text)
        if channel in self._watched:
            await self._close(channel)
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

    async def _info(self, _: str) -> None:
        lost = (
            "" if self._lost_since is None else f", lost {time.monotonic() - self._lost_since:.0f} s ago; reconnecting"
        )
        await self._show_note(f"gateway    {self._client.url}{lost or ', connected'}; {self._gateway.source}")
        await self._show_note(f"published  {self._published:,} on {self._channel}")
        await self._show_note(f"shown      {', '.join(self._watched) or 'nothing; /sub CHANNEL does'}")

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

        async with self._screen:
            await run_in_terminal(write)
