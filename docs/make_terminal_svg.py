"""Makes terminal.svg, the picture in the README: runs the commands below for real, each on a terminal of its own.

    .venv/bin/python docs/make_terminal_svg.py

The gateway's ports must be free (8080, and 6379 for the embedded server). Nothing of the output is changed but the
temporary home directory, which is shown as ~.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 92
TIMEOUT_S = 10
FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"  # the reader's own: nothing is fetched


class Terminal:
    """A command of the shell on a terminal, and what it shows there."""

    def __init__(self, command: str, environment: dict[str, str]) -> None:
        self.command = command
        self.shown = ""
        self._screen, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
        self.process = subprocess.Popen(
            command, shell=True, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)

    def read_until(self, text: str | None = None) -> Terminal:
        """Read on until ``text`` appears, or to the end."""
        deadline = time.monotonic() + TIMEOUT_S
        while text is None or text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            try:
                self.shown += os.read(self._screen, 65536).decode()
            except OSError:  # its end, on Linux
                assert text is None, self.shown
                break
        return self


def play(home: str) -> list[Terminal]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RSWS_", "XDG_"))},
        "HOME": home,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RSWS_LOG_LEVEL": "warning",
        "TERM": "xterm-256color",
    }
    os.chdir(home)

    def run(command: str) -> Terminal:
        return Terminal(command, environment)

    serve = run("exec rsws serve").read_until("rsws xadd")
    try:
        pub = run("""rsws pub news '{"user":"alice","text":"Halo semua!"}'""").read_until()
        xadd = run("""rsws xadd news '{"type":"ALERT","load":0.97,"tags":["db","eu"]}'""").read_until()
        sub = run("rsws sub news --from 0 --count 3").read_until("live")
        run("""rsws pub news '{"user":"budi","text":"Hi!"}'""").read_until()
        return [serve, pub, xadd, sub.read_until()]
    finally:
        serve.process.terminate()
        serve.process.wait(TIMEOUT_S)


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        terminals = play(home)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for terminal in terminals:
        console.print(Text.assemble(("$ ", "bold green"), (terminal.command.removeprefix("exec "), "bold")))
        shown = terminal.shown.replace("\r\n", "\n").strip("\n").replace(home, "~")
        console.print(Text.from_ansi(shown), soft_wrap=True)
        console.print()
    svg = console.export_svg(title="rsws", unique_id="rsws")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", FONT)
    assert 'url("http' not in svg, "the picture fetches something"
    Path(__file__).with_name("terminal.svg").write_text(svg)


if __name__ == "__main__":
    main()
