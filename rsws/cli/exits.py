"""The exit codes of commands, and the errors that lead to them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from rsws.errors import (
    ERROR_HELP,
    CannotConnect,
    ConnectionLost,
    ErrorCode,
    LoginRefused,
    Outcome,
    PublishFailed,
    RedisUnavailable,
    RswsError,
    SubscribeRefused,
    Unauthorized,
    UsageError,
)


class ExitCode(IntEnum):
    """The exit codes of all commands but ``rsws check``, whose are Nagios'. ``EXIT_HELP`` says what each one means."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    NOT_CONNECTED = 3
    REFUSED = 4
    GAP = 5
    TIMEOUT = 6
    INTERRUPTED = 130


EXIT_HELP: dict[int, str] = {
    ExitCode.DONE: "done",
    ExitCode.ERROR: "error",
    ExitCode.USAGE: "usage",
    ExitCode.NOT_CONNECTED: "gateway or Redis can't be reached, or lost for good",
    ExitCode.REFUSED: "refused (token, right)",
    ExitCode.GAP: "gap, or messages lost, doubled or reordered",
    ExitCode.TIMEOUT: "timeout",
    ExitCode.INTERRUPTED: "Ctrl-C",
}


CHECK_EXIT_HELP: dict[int, str] = {
    0: "fine, or notes only",
    1: "warnings",
    2: "something critical, or usage",
    3: "something could not be looked at, and no warning",
    ExitCode.INTERRUPTED: EXIT_HELP[ExitCode.INTERRUPTED],
}
"""The exit codes of ``rsws check``, which are those of Nagios' plugins."""


def epilog(*examples: str, codes: Mapping[int, str] = EXIT_HELP) -> str:
    """Return the end of a command's help: the exit codes, and examples to copy."""
    said = ", ".join(f"{code} {text}" for code, text in codes.items())
    lines = "\n".join(f"  {example}" for example in examples).replace("[", r"\[")
    return f"Exit codes: {said}.\n\nExamples:\n{lines}"


MAY_BE_STORED = "; the message may be stored all the same"
"""The end of an error that leaves open what became of a message."""


class Failure(RswsError):
    """An error that ends a command and carries its exit code, where the error's type would not tell that."""

    def __init__(self, text: str, code: ExitCode) -> None:
        super().__init__(text)
        self.code = code


class StdoutClosed(RswsError):
    """The reader of standard output has closed it (``| head``): the command ends without an error, as if done."""


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code for ``error``."""
    match error:
        case Failure(code=code):
            return code
        case UsageError():
            return ExitCode.USAGE
        case CannotConnect() | ConnectionLost() | RedisUnavailable():
            return ExitCode.NOT_CONNECTED
        case SubscribeRefused(code=ErrorCode.REDIS_UNAVAILABLE) | PublishFailed(code=ErrorCode.REDIS_UNAVAILABLE):
            return ExitCode.NOT_CONNECTED
        case Unauthorized() | LoginRefused():
            return ExitCode.REFUSED
        case SubscribeRefused(code=ErrorCode.NOT_ALLOWED) | PublishFailed(code=ErrorCode.NOT_ALLOWED):
            return ExitCode.REFUSED
        case PublishFailed(code="timeout" | ErrorCode.RATE_LIMITED):
            return ExitCode.TIMEOUT
        case PublishFailed(code="connection_lost"):
            return ExitCode.NOT_CONNECTED
        case _:
            return ExitCode.ERROR


def describe(error: BaseException) -> str:
    """Return one sentence about ``error`` for the user."""
    match error:
        case RedisUnavailable(cause=cause, code=code, outcome=outcome):
            return _with_outcome(wire_error(cause.rstrip("."), code), outcome)
        case PublishFailed(code=code, outcome=outcome) if code != "connection_lost":  # its text has the outcome already
            return _with_outcome(wire_error(str(error), code), outcome)
        case SubscribeRefused(code=ErrorCode.REDIS_UNAVAILABLE as code):
            return wire_error(str(error), code)
        case UsageError(settings=settings) if settings:
            from rsws.cli.origins import origin_of  # which knows all settings, and they take a while to make

            source = origin_of(settings)
            return str(error) if str(error).startswith(source) else f"{source}: {error}"
        case OSError(strerror=str(reason), filename=None):
            return reason
        case _:
            return str(error)


def _with_outcome(text: str, outcome: Outcome) -> str:
    """Return an error's text together with the outcome of its message."""
    if outcome is Outcome.NOT_STORED:
        return f"not stored: {text}"
    return text + MAY_BE_STORED


def wire_error(text: str, code: str) -> str:
    """Return a gateway's error text for the user; one that is fixed in Indonesian gets an explanation in English."""
    if code == ErrorCode.REDIS_UNAVAILABLE:
        return f"{ERROR_HELP[ErrorCode.REDIS_UNAVAILABLE][0]} ({text})"
    return text
