"""The scripts over one link, and what takes their place where the server forbids them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from rsws.redis.connection import OnReply, ReplyError
from rsws.redis.link import Submits, future_reply
from rsws.streams.plain import Keys, PlainReads, Steps
from rsws.streams.refusals import Refusals
from rsws.streams.scripts import LOOK, READ, STEP_BACK, Script


class ScriptsForbidden(ReplyError):
    """Redis refuses to run scripts, and no plain commands do what this one does."""


class ScriptRunner:
    """Runs scripts over a link: by their SHA-1, in full where they are not loaded, or by plain commands.

    What was refused is tried again once on each new connection, beside the plain commands that are sent anyhow: these
    read, so that it does no harm to do both. A script that writes is always tried.

    Args:
        link: The connection.
        refusals: Says what is refused.
    """

    def __init__(self, link: Submits, refusals: Refusals) -> None:
        self._link = link
        self._refusals = refusals
        self._plain = PlainReads(refusals)
        self._plain_of: dict[Script, Callable[[Keys, Keys], Steps]] = {
            LOOK: self._plain.look,
            READ: self._plain.read,
            STEP_BACK: self._plain.step_back,
        }
        self._refused: set[Script] = set()
        """The scripts that plain commands replace; empty where nothing is forbidden."""
        self._tried: tuple[int, set[Script]] = (0, set())
        """The connection, by its number, and the scripts tried again on it."""

    def run(self, script: Script, keys: Keys, arguments: Keys, on_reply: OnReply, weight: int = 0) -> None:
        """Run a script; ``weight`` as in :meth:`rsws.redis.link.RedisLink.submit`."""
        if self._refused and script in self._refused:
            self._try_again(script, keys, arguments, weight)
            self._run_plain(script, keys, arguments, on_reply, weight)
            return

        on_first_reply = partial(self._replied, script, keys, arguments, on_reply, weight)
        self._link.submit(script.call(*keys, arguments=arguments), on_first_reply, weight)

    def _replied(self, script: Script, keys: Keys, arguments: Keys, on_reply: OnReply, weight: int, reply: Any) -> None:
        """Pass on the reply to a script that was run by its SHA-1, or run it in full."""
        if not isinstance(reply, ReplyError):
            on_reply(reply)
            return

        def on_second_reply(reply: Any) -> None:
            if not isinstance(reply, ReplyError) or not reply.forbids_command:
                on_reply(reply)
                return
            is_outside = self._note_refused(reply)
            if script in self._plain_of:
                self._refused.add(script)
                self._tried_now().add(script)
                self._run_plain(script, keys, arguments, on_reply, weight, again=True)
            else:
                on_reply(ScriptsForbidden(str(reply)) if is_outside else reply)

        if self._is_not_loaded(reply):
            self._link.submit(script.call_in_full(*keys, arguments=arguments), on_second_reply, weight, again=True)
        else:
            on_second_reply(reply)

    def ask(self, script: Script, keys: Keys, arguments: Keys = (), weight: int = 0) -> asyncio.Future[Any]:
        """Run a script; the future has its reply."""
        future, on_reply = future_reply()
        self.run(script, keys, arguments, on_reply, weight)
        return future

    def _is_not_loaded(self, reply: ReplyError) -> bool:
        """Whether the script has to be sent in full: Redis does not know it, or forbids to run it by its SHA-1."""
        if str(reply).startswith("NOSCRIPT"):
            return True
        if not reply.forbids_command or reply.is_in_script:
            return False
        self._refusals.say("EVALSHA", reply)
        return True

    def _note_refused(self, reply: ReplyError) -> bool:
        """Return whether it is scripts that are refused, not a command in one, and say so once."""
        if reply.is_in_script:
            return False
        self._refusals.say("EVAL", reply)
        return True

    def _try_again(self, script: Script, keys: Keys, arguments: Keys, weight: int) -> None:
        """Find out whether a refused script may be run on this connection, unless that was tried."""
        tried = self._tried_now()
        if script in tried:
            return
        tried.add(script)

        def on_reply(reply: Any) -> None:
            if not isinstance(reply, Exception):
                self._refused.discard(script)

        self._link.submit(script.call_in_full(*keys, arguments=arguments), on_reply, weight)

    def _tried_now(self) -> set[Script]:
        """Return the scripts that were tried on this connection."""
        if self._tried[0] != self._link.connections:
            self._tried = self._link.connections, set()
            self._plain.forget()
        return self._tried[1]

    def _run_plain(
        self, script: Script, keys: Keys, arguments: Keys, on_reply: OnReply, weight: int, *, again: bool = False
    ) -> None:
        steps = self._plain_of[script](keys, arguments)

        def go_on(replies: list[Any] | None) -> None:
            try:
                commands = next(steps) if replies is None else steps.send(replies)
            except StopIteration as done:
                on_reply(done.value)
            except ReplyError as error:
                on_reply(error)
            else:
                send(commands, again=again and replies is None)

        def send(commands: tuple[bytes, ...], *, again: bool) -> None:
            replies: list[Any] = []

            def on_each(reply: Any) -> None:
                replies.append(reply)
                if len(replies) < len(commands):
                    return
                failure = next((each for each in replies if _is_failure(each)), None)
                if failure is None:
                    go_on(replies)
                else:
                    on_reply(failure)

            for command in commands:
                self._link.submit(command, on_each, weight // len(commands), again=again)

        go_on(None)


def _is_failure(reply: Any) -> bool:
    """Whether it is the link that failed."""
    return isinstance(reply, Exception) and not isinstance(reply, ReplyError)
