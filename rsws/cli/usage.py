"""Typer's errors and types in plain words, for error messages and for the help."""

from __future__ import annotations

import gc
import os
import re
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from rsws.cli import completing
from rsws.cli.coercion import Coercion
from rsws.env_file import is_from_env_file

CommandLineError: type[Exception] = typer.BadParameter.__mro__[1]
"""The base class of the errors that typer raises for a command line; typer gives it no public name."""

_EXPECTED = {
    "string_unicode": "valid UTF-8",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
    "greater_than_equal": "{ge:.12g} or more",
    "less_than_equal": "{le:.12g} or less",
}
"""The expected values in plain words, by pydantic's type of the error."""
_WORDS = {
    "No such command": "no such command",
    ". Did you mean": "; did you mean",
    "Got unexpected extra argument(s)": "more arguments than it takes:",
    "Option '": "option '",
    "requires an argument": "wants a value",
}
"""The plain words that replace typer's, in errors that concern no particular option or argument."""
_PLAIN = re.compile("|".join(map(re.escape, _WORDS)))


_UNUSED = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
"""What typer imports to show a help and rsws' help never needs: a fifth of the time that a help takes."""


def _import_help() -> None:
    """Import what shows a help, with something empty in the place of what it does not need."""
    if "typer.rich_utils" in sys.modules:
        return
    empty = {name: ModuleType(name) for name in _UNUSED if name not in sys.modules}
    for name, module in empty.items():
        setattr(module, _UNUSED[name], type(_UNUSED[name], (), {}))
    sys.modules.update(empty)
    try:
        import_module("typer.rich_utils")
    except ImportError:  # another version of typer may need more of them: it imports them itself
        pass
    finally:
        for name in empty:
            del sys.modules[name]


class Command(TyperCommand):
    """A command whose help shows no Python types, and whose values are coerced by :class:`Coercion`."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _adapted(super().get_params(ctx))

    def format_help(self, *args: Any, **options: Any) -> None:
        _import_help()
        super().format_help(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        from rsws.cli.logs import show_logs

        show_logs()
        if not gc.isenabled():  # since rsws.__main__: from now on there may be garbage, but not in what is imported
            gc.freeze()
            gc.enable()
        return super().invoke(ctx)


class Group(TyperGroup):
    """A group of commands, like :class:`Command` in its own parameters."""

    def main(self, *args: Any, **options: Any) -> Any:
        shell = os.environ.get("_RSWS_COMPLETE", "")
        if shell not in completing.SHELLS:
            completing.use_own_scripts()
            return super().main(*args, **options)
        text, code = completing.answer(self, shell)
        sys.stdout.write(text)
        sys.exit(code)

    def get_params(self, ctx: Any) -> list[Any]:
        return _adapted(super().get_params(ctx))

    def format_help(self, *args: Any, **options: Any) -> None:
        _import_help()
        super().format_help(*args, **options)


class Unmade(TyperCommand):
    """A command that is known by its name and summary, and made when it is run, completed or asked for its help."""

    def __init__(self, name: str, summary: str, make: Callable[[str], Any]) -> None:
        super().__init__(name, help=summary, rich_markup_mode="rich")
        self._make = make

    def make(self) -> Any:
        """Return the whole command."""
        return self._make(str(self.name))

    def make_context(self, *args: Any, **options: Any) -> Any:
        return self.make().make_context(*args, **options)


def _adapted(parameters: list[Any]) -> list[Any]:
    for each in parameters:
        if not hasattr(each, "type_descriptor") or "get_runtime_param" in vars(each):  # --help, or done before
            continue
        if each.param_type_name == "argument" or each.is_flag:
            each.display_type_rich = lambda ctx: None
        coercion = Coercion(each)
        each.get_runtime_param = lambda coercion=coercion: coercion
    return parameters


def describe_usage(error: Any) -> str:
    """Return one sentence that says what is wrong with the command line, and where the help is."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "rsws"
    return f"{_fault(error, command)} (see `{command} --help`)"


def _fault(error: Any, command: str) -> str:
    parameter = getattr(error, "param", None)
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):
        return _unknown_option(error, option, command)
    if parameter is None:
        return _PLAIN.sub(lambda match: _WORDS[match[0]], str(error.message)).rstrip(".")
    if parameter.required and not error.message:
        return f"{_argument(parameter)} is missing"
    return f"{_name(error, parameter)}{_expected(error)}"


def _unknown_option(error: Any, option: str, command: str) -> str:
    if error.possibilities:
        return f"no such option: {option}; did you mean {' or '.join(sorted(error.possibilities))}?"
    if error.ctx is None or not any(each.name == "data" for each in error.ctx.command.params):
        return f"no such option: {option}"
    word = next((word for word in sys.argv if word.startswith(option)), option)
    return f"no such option: {option}; DATA that begins with - goes after --: {command} CHANNEL -- {shlex.quote(word)}"


def _name(error: Any, parameter: Any) -> str:
    """Return what the user has set: the flag, or the environment variable in its place."""
    source = error.ctx.get_parameter_source(parameter.name) if error.ctx is not None else None
    if getattr(source, "name", "") == "ENVIRONMENT":
        return str(parameter.envvar) + (" in .env" if is_from_env_file(str(parameter.envvar)) else "")
    return str(parameter.opts[0]) if parameter.param_type_name == "option" else _argument(parameter)


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name)


def _expected(error: Any) -> str:
    """Return what the value is and what it must be, from typer's validation error, else in typer's own words."""
    if not hasattr(error.__cause__, "errors"):
        return f": {error.message.rstrip('.')}"
    fault = error.__cause__.errors()[0]
    value = f" is {fault['input']!r}" if isinstance(fault["input"], str | int | float) else ""
    if expected := _EXPECTED.get(fault["type"]):
        return f"{value}: it must be {expected.format(**fault.get('ctx', {}))}"
    text = re.sub(
        r"^'.*?' is not one of (.*?)\.?$", r"it must be one of \1", fault["msg"].removeprefix("Value error, ")
    )
    return f"{value}: {text}"
