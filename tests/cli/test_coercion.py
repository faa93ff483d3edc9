"""Values that are taken without typer's validators: they are what those would make of them."""

from __future__ import annotations

import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from rsws.cli.coercion import Coercion
from rsws.cli.commands import SUMMARIES, make


class _Colour(StrEnum):
    RED = "red"


VALUES: list[Any] = [
    None, "", "x", "é", "\udcff", "red", "RED", "a,b", "/", "/etc/passwd", "0", "1", "-1", "+1", "01", "1.0", "1.5",
    " 1", "1 ", "1_0", "1e3",
    "9" * 16, "9" * 400, "inf", "nan", "-0", "١", "true", "yes", "off", True, False, 7, 1.5, _Colour.RED, ["a"], [],
]  # fmt: skip
TYPES: list[Any] = [
    str, str | None, int, int | None, float, float | None, bool, Path, Path | None, _Colour, Literal["red", "1"],
]  # fmt: skip


def _parameter(type_: Any, info: Any, default: Any) -> Any:
    typed = typer.Typer(add_completion=False)

    @typed.command()
    def command(value: Annotated[type_, info] = default) -> None:
        """Take a value."""

    command.__annotations__["value"] = Annotated[type_, info]
    return typer.main.get_command(typed).params[0]


def _made(coerce: Any, value: Any, parameter: Any) -> Any:
    try:
        made = coerce(value, param=parameter, ctx=None)
    except typer.BadParameter as fault:
        return str(fault)
    return type(made), made if made == made else "nan"


@pytest.mark.parametrize("limits", [{}, {"min": 0, "max": 1}])
@pytest.mark.parametrize("type_", [*TYPES, list[str], list[int]], ids=str)
def test_a_value_is_what_typer_makes_of_it(type_: Any, limits: dict[str, Any]) -> None:
    default: Any = None if type_ not in (list[str], list[int]) else []
    parameter = _parameter(type_, typer.Option("--value", **limits if type_ in (int, float) else {}), default)
    typers, ours = parameter.get_runtime_param().coerce, Coercion(parameter).coerce
    for value in VALUES:
        assert _made(ours, value, parameter) == _made(typers, value, parameter), value


def test_a_default_is_taken_as_it_is() -> None:
    parameter = _parameter(int, typer.Option("--value", min=5), 1)
    assert Coercion(parameter).coerce(1, param=parameter, ctx=None) == 1


@pytest.mark.parametrize(
    "words", [["sub", "news", "--count", "1", "--timeout", "1.5", "-o", "json"], ["xadd", "news", "1"], ["serve"]]
)
def test_no_validator_is_imported_for_what_is_plainly_right(words: list[str]) -> None:
    code = "import sys\nfrom rsws.cli.commands import make\nmake(sys.argv[1]).make_context('x', sys.argv[2:])\n"
    code += "assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, *words], check=True, timeout=20)


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_summary_of_a_command_begins_its_help(name: str) -> None:
    assert make(name).help.partition("\n\n")[0] == SUMMARIES[name]
