"""Makes what the documents say of commands, options, errors and metrics from the code that has them.

    .venv/bin/python docs/make_reference.py

It writes commands.md, in English and in Indonesian, and the man page anew, and replaces the tables in settings.md and
protocol.md. A test compares all of them with the code, so run this after a change of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import typer
from rich.text import Text

from rsws.cli.commands import app
from rsws.cli.exits import CHECK_EXIT_HELP, EXIT_HELP
from rsws.cli.options import flag
from rsws.cli.usage import Unmade
from rsws.errors import CLOSE_HELP, ERROR_HELP
from rsws.gateway.metrics import INFO, METRICS, PRIMARIES, PRIMARY_UP
from rsws.options import options
from rsws.settings import ClientSettings, Settings

DOCS = Path(__file__).parent

ENGLISH = {
    "title": "Commands",
    "intro": """\
What `rsws COMMAND --help` says, on one page; `man rsws` has it, too. All settings with their variables:
[Settings](settings.md).

Standard output carries data alone, everything else goes to standard error, and `NO_COLOR` is honoured. In a pipe data
is what was published, byte for byte but for line breaks; on a terminal and in log lines what a terminal would obey
shows as `\\u009b`. DATA that is not JSON is refused: `--text` sends plain text. On a terminal `rsws pub CHANNEL`
without DATA is a prompt with history (`/help`).""",
    "command": "command",
    "does": "what it does",
    "exit": "Exit codes",
    "code": "code",
    "meaning": "meaning",
    "check": "Those of `rsws check` are those of Nagios' plugins:",
    "option": "option",
    "environment": "environment",
    "default": "default",
}
INDONESIAN = {
    "title": "Perintah",
    "intro": """\
Isi `rsws PERINTAH --help` dalam satu halaman; ada juga di `man rsws`. Programnya sendiri berbahasa Inggris, jadi
penjelasan opsi di bawah ini persis seperti yang muncul di terminal. Semua pengaturan beserta variabelnya:
[Pengaturan](settings.md).

Standard output hanya berisi data, selebihnya ke standard error, dan `NO_COLOR` dipatuhi. Di pipe, data sama persis
dengan yang diterbitkan, byte demi byte kecuali pergantian baris; di terminal dan di log, apa yang akan dituruti
terminal tampil sebagai `\\u009b`. DATA yang bukan JSON ditolak: `--text` mengirim teks biasa. Di terminal,
`rsws pub CHANNEL` tanpa DATA membuka prompt dengan riwayat (`/help`).""",
    "command": "perintah",
    "does": "kegunaan",
    "exit": "Kode keluar",
    "code": "kode",
    "meaning": "arti",
    "check": "Kode `rsws check` mengikuti plugin Nagios:",
    "option": "opsi",
    "environment": "variabel",
    "default": "bawaan",
}


class Command(NamedTuple):
    """A command, with what its help says in plain text."""

    path: str
    help: str
    arguments: list[Any]
    panels: dict[str, list[Any]]
    examples: str
    is_group: bool

    @property
    def usage(self) -> str:
        words = [self.path, "[OPTIONS]", *map(_placeholder, self.arguments)]
        return " ".join([*words, "COMMAND"] if self.is_group else words)

    @property
    def summary(self) -> str:
        return self.help.partition("\n\n")[0]


def commands() -> Iterator[Command]:
    """All commands, each group before what is in it."""
    return _walk("rsws", typer.main.get_command(app))


def _walk(path: str, command: Any) -> Iterator[Command]:
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    panels: dict[str, list[Any]] = {}
    for each in shown:
        if each.param_type_name == "option" and "--help" not in each.opts:
            panels.setdefault(each.rich_help_panel or "", []).append(each)
    _, _, examples = plain(command.epilog or "").partition("Examples:\n")
    inner = getattr(command, "commands", {})
    arguments = [each for each in shown if each.param_type_name == "argument"]
    yield Command(path, plain(command.help or ""), arguments, panels, _dedented(examples), bool(inner))
    for name, each in inner.items():
        if not getattr(each, "hidden", False):
            yield from _walk(f"{path} {name}", each.make() if isinstance(each, Unmade) else each)


def plain(markup: str) -> str:
    return Text.from_markup(markup).plain.strip("\n")


def _dedented(text: str) -> str:
    return "".join(f"{line.strip()}\n" for line in text.splitlines())


def _placeholder(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper()) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _flags(option: Any) -> str:
    return ", ".join([*option.opts, *option.secondary_opts])


def _value(option: Any) -> str:
    """The placeholder for the value of an option; "" for a switch."""
    if option.is_flag:
        return ""
    choices = _choices(option.type_descriptor.annotation)
    return "|".join(choices) if choices else str(option.metavar or "TEXT")


def _choices(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(each.value) for each in annotation]
    return [str(each) for each in get_args(annotation)] if get_origin(annotation) is Literal else []


def _default(option: Any) -> str:
    value = option.default.value if isinstance(option.default, Enum) else option.default
    if value is None or value is False or value in ((), []):
        return ""
    if value is True:
        return str(option.opts[0])
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(*rows: tuple[str, ...]) -> str:
    """A table in Markdown; the first row is its head."""
    head, *body = rows
    lines = [f"| {' | '.join(row)} |\n" for row in (head, *body)]
    return "".join([lines[0], f"|{'---|' * len(head)}\n", *lines[1:]])


# --- commands.md ---


def commands_page(said: dict[str, str]) -> str:
    there = list(commands())
    anchors = {each.path: each.path.replace(" ", "-") for each in there}
    rows = [
        (f"[`{each.path}`](#{anchors[each.path]})", _cell(each.summary.rstrip(".")))
        for each in there
        if each.path != "rsws"
    ]
    parts = [
        f"# {said['title']}\n\n{said['intro']}\n",
        table((said["command"], said["does"]), *rows),
        f"## {said['exit']}\n\n" + _codes(EXIT_HELP, said),
        f"{said['check']}\n\n" + _codes(CHECK_EXIT_HELP, said),
        *(_command_part(each, said) for each in there),
    ]
    return "\n".join(parts)


def _codes(codes: dict[int, str], said: dict[str, str]) -> str:
    return table((said["code"], said["meaning"]), *((str(int(code)), text) for code, text in codes.items()))


def _command_part(command: Command, said: dict[str, str]) -> str:
    parts = [f"## {command.path}\n\n{_safe(command.help)}\n\n```text\n{command.usage}\n```\n"]
    if any(each.help for each in command.arguments):
        arguments = [(f"`{_placeholder(each)}`", _cell(plain(each.help or ""))) for each in command.arguments]
        parts.append(table(("", said["meaning"]), *arguments))
    for panel, chosen in command.panels.items():
        rows = []
        for each in chosen:
            shown = f"`{_flags(each)}`" + (f" `{_cell(_value(each))}`" if _value(each) else "")
            rows.append((shown, _code(each.envvar), _code(_default(each)), _cell(plain(each.help or ""))))
        title = f"**{panel}**\n\n" if panel else ""
        parts.append(title + table((said["option"], said["environment"], said["default"], said["meaning"]), *rows))
    if command.examples:
        parts.append(f"```sh\n{command.examples}```\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return _safe(" ".join(text.split())).replace("|", "\\|")


def _safe(text: str) -> str:
    """The text with what Markdown would take for HTML or emphasis written out, outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<*])", r"\\\1", part) for part in parts)


def _code(text: str | None) -> str:
    return f"`{_cell_code(text)}`" if text else ""


def _cell_code(text: str) -> str:
    return text.replace("|", "\\|")


# --- the man page ---


def man_page() -> str:
    there = list(commands())
    first, *rest = there
    lines = [
        '.TH RSWS 1 "" "rsws" "User Commands"',
        ".SH NAME",
        f"rsws \\- {_roff(first.summary.rstrip('.')[0].lower() + first.summary.rstrip('.')[1:])}",
        ".SH SYNOPSIS",
        ".B rsws",
        ".I COMMAND",
        "[\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...",
        ".SH DESCRIPTION",
        "Every channel is a Redis Stream: a subscriber gets what it missed and then what comes, in order,",
        "each message once.",
        "Standard output carries data alone, everything else goes to standard error.",
        ".SH OPTIONS",
        *_man_options(first),
        ".SH COMMANDS",
    ]
    for each in rest:
        lines += [f".SS {_roff(each.usage)}", *_paragraphs(each.help)]
        for argument in each.arguments:
            if argument.help:
                lines += [".TP", f".I {_roff(_placeholder(argument))}", _roff(_one_line(argument.help))]
        lines += _man_options(each)
        if each.examples:
            lines += [".PP", "Examples:", ".PP", ".nf", ".RS", *map(_roff, each.examples.splitlines()), ".RE", ".fi"]
    lines += [
        ".SH EXIT STATUS",
        *_man_codes(EXIT_HELP),
        ".PP",
        "Of",
        ".BR rsws\\~check :",
        *_man_codes(CHECK_EXIT_HELP),
    ]
    lines += [
        ".SH FILES",
        ".TP",
        ".I .env",
        "Settings, in the working directory: the environment beats them, and flags beat both.",
        ".TP",
        ".I ~/.local/share/rsws",
        "The key and the data of the embedded server, where none are given.",
        ".SH SEE ALSO",
        ".BR redis\\-cli (1)",
    ]
    return "\n".join(lines) + "\n"


def _man_options(command: Command) -> list[str]:
    lines = []
    for each in [each for chosen in command.panels.values() for each in chosen]:
        value = f" \\fI{_roff(_value(each))}\\fR" if _value(each) else ""
        text = _one_line(each.help or "")
        if default := _default(each):
            text += f" Default: {default}."
        if each.envvar:
            text += f" Environment: {each.envvar}."
        lines += [".TP", f"\\fB{_roff(_flags(each))}\\fR{value}", _roff(text)]
    return lines


def _man_codes(codes: dict[int, str]) -> list[str]:
    return [line for code, text in codes.items() for line in (".TP", f".B {int(code)}", _roff(text))]


def _paragraphs(text: str) -> list[str]:
    return [line for each in text.split("\n\n") for line in (".PP", _roff(" ".join(each.split())))]


def _one_line(markup: str) -> str:
    return " ".join(plain(markup).split())


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


# --- the tables in pages that are written by hand ---


def settings_table(settings: type[Any], head: tuple[str, ...] = ("flag", "environment", "default", "meaning")) -> str:
    """What docs/settings.md says of a settings class."""
    rows = [head]
    for name, option in options(settings).items():
        default = getattr(settings(), name)
        if isinstance(default, bool):
            default = "on" if default else "off"
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        choices = f" One of {', '.join(option.choices)}." if option.choices else ""
        rows.append(
            (
                f"`{flag(name)}`",
                f"`{option.env}`" if option.env else "",
                "" if default in (None, ()) else f"`{shown}`",
                option.help + choices,
            )
        )
    return table(*rows)


def tables() -> dict[str, list[str]]:
    """The tables of each page, in the order in which they stand there."""
    errors = [(f"`{code}`", when, what_to_do) for code, (when, what_to_do) in ERROR_HELP.items()]
    closes = [(str(int(code)), why, "yes" if again else "no") for code, (why, again) in CLOSE_HELP.items()]
    metrics = [(f"`{each.name}`", each.kind, each.help) for each in (INFO, *METRICS.values(), PRIMARIES, PRIMARY_UP)]
    return {
        "settings.md": [settings_table(Settings), settings_table(ClientSettings)],
        "protocol.md": [
            table(("code", "when", "what to do"), *errors),
            table(("code", "why", "come back?"), *closes),
            table(("metric", "type", "meaning"), *metrics),
        ],
        "id/settings.md": [
            settings_table(each, ("flag", "variabel", "bawaan", "arti")) for each in (Settings, ClientSettings)
        ],
        "id/protocol.md": [table(("metrik", "jenis", "arti, seperti di `/metrics`"), *metrics)],
    }


def with_tables(text: str, made: list[str]) -> str:
    """The page with its tables in place of those that have the same heads."""
    position = 0
    for each in made:
        head = each.partition("\n")[0]
        start = text.index(f"{head}\n", position)
        end = re.compile(r"(?:^\|.*\n)+", re.MULTILINE).match(text, start)
        assert end is not None
        text = text[:start] + each + text[end.end() :]
        position = start + len(each)
    return text


def outputs() -> dict[Path, str]:
    """Each file that is made, or has something that is, and what it should contain."""
    pages = {DOCS / name: with_tables((DOCS / name).read_text(), made) for name, made in tables().items()}
    return pages | {
        DOCS / "commands.md": commands_page(ENGLISH),
        DOCS / "id" / "commands.md": commands_page(INDONESIAN),
        DOCS.parent / "man" / "rsws.1": man_page(),
    }


if __name__ == "__main__":
    for path, text in outputs().items():
        path.write_text(text)
