"""Makes recording.svg, half a minute of rsws on three terminals: runs the commands below for real, at that pace.

    .venv/bin/python docs/make_recording.py

Port 8080 must be free. Nothing of the output is changed but the temporary home directory, which is shown as ~, and the
address of the Redis, which runs on a free port. Who wants no animation (`prefers-reduced-motion`) sees the end of it.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from html import escape
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from rsws.embedded.valkey import candidates

OUTPUT = Path(__file__).resolve().parent / "recording.svg"
WIDTH = 92
END_S = 30.0
TIMEOUT_S = 20
FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"  # the reader's own: nothing is fetched
CHAR, LINE, MARGIN = 7.84, 17, 12  # of a font of 13 px
PALETTE = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=WIDTH)


class Pane:
    """A terminal in which commands run one after the other, and what it showed when."""

    def __init__(self, title: str, height: int) -> None:
        self.title, self.height = title, height
        self.shown = ""
        self.frames: list[tuple[float, str]] = [(0.0, "")]
        self.process: subprocess.Popen[bytes] | None = None
        self.screen, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, WIDTH, 0, 0))

    def start(self, command: str, environment: dict[str, str], at: float) -> None:
        self.add(f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m\r\n", at)
        self.process = subprocess.Popen(
            f"exec {command}",
            shell=True,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=environment,
            start_new_session=True,
        )

    def add(self, text: str, at: float) -> None:
        self.shown += text
        self.frames.append((at, self.shown))


class Recording:
    """Panes, one clock, and the Redis of the commands."""

    def __init__(self, panes: list[Pane], home: str, redis_port: int) -> None:
        self.panes = panes
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RSWS_", "XDG_"))},
            "HOME": home,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
            "RSWS_LOG_LEVEL": "warning",
            "TERM": "xterm-256color",
        }
        self._began = time.monotonic()
        self._selector = selectors.DefaultSelector()
        for pane in panes:
            self._selector.register(pane.screen, selectors.EVENT_READ, pane)

    @property
    def now(self) -> float:
        return time.monotonic() - self._began

    def run(self, pane: Pane, command: str, *, shows: str = "", where: Pane | None = None) -> None:
        """Start a command, and watch until it has shown something, there or elsewhere, or has ended."""
        seen = len((where or pane).shown)
        pane.start(command, self.environment, self.now)
        assert pane.process is not None
        ended = pane.process.poll
        self.watch(lambda: shows in (where or pane).shown[seen:] if shows else ended() is not None)
        self.pause(0.2)

    def pause(self, seconds: float) -> None:
        until = self.now + seconds
        self.watch(lambda: self.now >= until)

    def watch(self, is_over: Callable[[], bool]) -> None:
        deadline = self.now + TIMEOUT_S
        while not is_over():
            assert self.now < deadline, [pane.shown for pane in self.panes]
            for key, _ in self._selector.select(0.02):
                key.data.add(os.read(key.fd, 65536).decode(errors="replace"), self.now)


def play(recording: Recording) -> None:
    gateway, subscriber, publisher = recording.panes
    recording.pause(1)
    recording.run(gateway, "rsws serve", shows="rsws xadd")
    recording.pause(2.5)
    recording.run(publisher, """rsws pub news '{"user":"alice","text":"Halo semua!"}'""")
    recording.pause(2)
    recording.run(subscriber, "rsws sub news --from 0", shows="live")
    recording.pause(2.5)
    recording.run(publisher, """rsws xadd news '{"type":"ALERT","load":0.97}'""", shows="ALERT", where=subscriber)
    recording.pause(2.5)
    assert gateway.process is not None
    gateway.add("^C\r\n", recording.now)
    gateway.process.send_signal(signal.SIGINT)
    ended = gateway.process.poll
    recording.watch(lambda: ended() is not None)
    recording.pause(2)
    recording.run(publisher, """rsws xadd news '{"text":"nobody serves, Redis keeps it"}'""")
    recording.pause(2.5)
    recording.run(gateway, "rsws serve", shows="nobody serves", where=subscriber)
    recording.pause(2)
    recording.run(publisher, """rsws pub news '{"text":"and on it goes"}'""", shows="on it goes", where=subscriber)
    recording.pause(0.5)


# --- the picture ---


def svg(panes: list[Pane], replaced: dict[str, str]) -> str:
    """The panes one below the other; each frame of a pane is there for its time, over and over."""
    body, rules, top = [], [], 0.0
    for number, pane in enumerate(panes):
        height = pane.height * LINE + 2 * MARGIN + LINE
        body.append(f'<g transform="translate(0 {top:g})">')
        body.append(f'<rect width="100%" height="{height - 6:g}" rx="6" fill="#292929"/>')
        body.append(f'<text x="{MARGIN}" y="{LINE}" fill="#8a8a8a">{escape(pane.title)}</text>')
        frames = [frame for frame in pane.frames if frame[0] < END_S]
        for index, (at, shown) in enumerate(frames):
            until = frames[index + 1][0] if index + 1 < len(frames) else END_S
            if until - at < 0.04 and until < END_S:
                continue  # nobody would see it
            name = f"f{number}-{index}"
            rules.append(f".{name}{{animation:{name} {END_S:g}s step-end infinite}}")
            start, end = f"{100 * at / END_S:.3f}%", f"{100 * until / END_S:.3f}%"
            after = "" if until >= END_S else f"{end}{{opacity:0}}"
            rules.append(f"@keyframes {name}{{0%{{opacity:0}}{start}{{opacity:1}}{after}}}")
            last = " last" if until >= END_S else ""
            body.append(f'<g class="f {name}{last}">{_lines(shown, pane.height, replaced)}</g>')
        body.append("</g>")
        top += height
    width = WIDTH * CHAR + 2 * MARGIN
    style = (
        f"text{{font:13px {FONT};white-space:pre}}.f{{opacity:0}}{''.join(rules)}"
        "@media (prefers-reduced-motion){.f{animation:none!important}.last{opacity:1}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {top:g}" width="{width:g}">\n'
        f"<style>{style}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _lines(shown: str, height: int, replaced: dict[str, str]) -> str:
    for original, text in replaced.items():
        shown = shown.replace(original, text)
    lines = Text.from_ansi(shown.replace("\r\n", "\n")).split("\n")[-height:]
    return "".join(_line(line, index) for index, line in enumerate(lines) if line.plain.strip())


def _line(line: Text, index: int) -> str:
    spans, column = [], 0
    for segment in line.render(PALETTE):
        if segment.text.strip():
            style = segment.style
            color = style.color.get_truecolor(MONOKAI).hex if style and style.color else "#d9d9d9"
            weight = ' font-weight="bold"' if style and style.bold else ""
            dim = ' opacity="0.6"' if style and style.dim else ""
            lead = len(segment.text) - len(segment.text.lstrip())
            x, length = MARGIN + (column + lead) * CHAR, len(segment.text.strip()) * CHAR
            text = escape(segment.text.strip(), quote=False)
            spans.append(f'<tspan x="{x:g}" textLength="{length:g}" fill="{color}"{weight}{dim}>{text}</tspan>')
        column += len(segment.text)
    return f'<text y="{MARGIN + (index + 2) * LINE:g}">{"".join(spans)}</text>'


def main() -> None:
    with tempfile.TemporaryDirectory() as home, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [next(candidates()), "--port", str(port), "--dir", home, "--save", ""]
        redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        panes = [Pane("the gateway", 15), Pane("a subscriber", 9), Pane("backends and clients", 9)]
        os.chdir(home)
        recording = Recording(panes, home, port)
        try:
            play(recording)
        finally:
            for process in (*(pane.process for pane in reversed(panes)), redis):
                if process is not None and process.poll() is None:
                    process.terminate()
                    process.wait(TIMEOUT_S)
    assert recording.now < END_S + 5, f"it took {recording.now:.0f} s"
    picture = svg(panes, {home: "~", f":{port}": ":6379"})
    OUTPUT.write_text(picture)


if __name__ == "__main__":
    main()
