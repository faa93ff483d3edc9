"""Log lines: what each says, its two forms, text and JSON, and where they go."""

from __future__ import annotations

import json
import logging
import re
import time
from functools import lru_cache
from typing import Any

from rsws.text import safe, safe_lines, show_bugs

_ONE_WORD = re.compile(r'[^\s"\'=\\]+')


class LogLine:
    """What a log line says: a text, and the facts it is about, by name.

    Logging takes it as a message: ``log.info(LogLine("client gone", client=peer, code=1000))``. As text the facts
    follow as ``client=192.0.2.1:5000 code=1000``; as JSON they are fields beside ``message``.

    Args:
        text: The message, the same for all lines of its kind.
        facts: What is left out where it is None.
    """

    __slots__ = ("_facts", "text")

    def __init__(self, text: str, /, **facts: str | float | None) -> None:
        self.text = text
        self._facts = facts

    @property
    def facts(self) -> dict[str, str | float]:
        """The facts by name."""
        return {name: value for name, value in self._facts.items() if value is not None}

    def __str__(self) -> str:
        text = self.text
        for name, value in self._facts.items():
            if type(value) is int:
                text += f" {name}={value}"
            elif value is not None:
                text += f" {name}={_shown(value)}"
        return text


class Record(logging.LogRecord):
    """A record that has of a :class:`LogLine` only what is shown: each client has two, and the rest takes as long."""

    def __init__(
        self, name: str, level: int, path: str, line: int, msg: Any, args: Any, exc_info: Any, *more: Any, **also: Any
    ) -> None:
        if not isinstance(msg, LogLine):
            super().__init__(name, level, path, line, msg, args, exc_info, *more, **also)
            return
        self.name, self.levelname, self.levelno = name, logging.getLevelName(level), level
        self.msg, self.args, self.exc_info = msg, (), exc_info
        # What no line says, for formatters that are not of this module. One by one: an update of __dict__ takes longer.
        self.pathname = self.filename = self.module = self.funcName = path
        self.lineno = line
        self.thread = self.threadName = self.process = self.processName = self.taskName = None
        self.exc_text = self.stack_info = None
        self.created = time.time()
        self.msecs = self.created % 1 * 1000
        self.relativeCreated = 0.0


def inform(log: logging.Logger, text: str, /, **facts: str | float | None) -> None:
    """Log a :class:`LogLine` as ``log.info`` does, without the steps that it has for callers, extras and filters.

    It is for what each client brings about.
    """
    if log.isEnabledFor(logging.INFO):
        log.callHandlers(Record(log.name, logging.INFO, "", 0, LogLine(text, **facts), (), None))


@lru_cache(maxsize=1)
def _time(second: int) -> str:
    """Return a time in seconds since 1970 in UTC; many lines have the same."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _shown(value: str | float) -> str:
    if not isinstance(value, str) or _ONE_WORD.fullmatch(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


class SafeFormatter(logging.Formatter):
    """A formatter for log lines that may quote others: one line for each record, then the lines of its traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return safe(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return safe_lines(super().format(record))


def log_safely(handler: logging.Handler, level: int | str = logging.WARNING) -> None:
    """Send log lines of ``level`` and above to ``handler`` alone, and the traceback of an uncaught exception to stderr.

    Args:
        handler: A handler whose formatter is a :class:`SafeFormatter`; it gets one if it has none.
    """
    if handler.formatter is None:
        handler.setFormatter(SafeFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    show_bugs()


class TextFormatter(SafeFormatter):
    """The formatter of lines for people: the time in UTC, the level, the logger, the message.

    Args:
        worker: The number of this process, where a gateway has several.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = "" if worker is None else f" worker={worker}"

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info or record.stack_info:
            return super().format(record)
        return self._line(record, record.getMessage())

    def formatMessage(self, record: logging.LogRecord) -> str:
        return self._line(record, record.message)

    def _line(self, record: logging.LogRecord, message: str) -> str:
        time = f"{_time(int(record.created))}.{int(record.msecs):03d}Z"
        return safe(f"{time} {record.levelname:<7} {record.name}{self._worker} {message}")


class JsonFormatter(logging.Formatter):
    """The formatter of lines for programs: one JSON object for each record, a traceback included, in ASCII.

    Its fields are ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``worker`` where there are several, ``message``, the
    facts of a :class:`LogLine`, and ``exception``, a traceback.

    Args:
        worker: The number of this process, where a gateway has several.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line: Any = record.msg
        is_line = isinstance(line, LogLine)
        fields: dict[str, Any] = {
            "time": f"{_time(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._worker,
            "message": safe(line.text if is_line else record.getMessage()),
            **(line.facts if is_line else {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)
