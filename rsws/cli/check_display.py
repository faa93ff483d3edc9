"""The report of ``rsws check`` for a person."""

from __future__ import annotations

import textwrap

from rich.text import Text

from rsws.check.findings import Finding, Severity
from rsws.check.report import summary
from rsws.check.run import Report
from rsws.cli.terminal import render, safe, stdout

_STYLES = {
    Severity.CRITICAL: "bold red",
    Severity.WARNING: "yellow",
    Severity.UNKNOWN: "magenta",
    Severity.NOTE: "cyan",
}
_INDENT = " " * 10


def format_report(report: Report) -> str:
    """Return the lines for standard output: what was looked at, the findings, what is fine, and a summary."""
    text = Text()
    for name, what in (("gateway", report.gateway), ("Redis", report.redis)):
        text.append(f"{name:10}{safe(what) or 'left out'}\n", "dim")
    for each in report.findings:
        text.append("\n").append_text(_format_finding(each))
    text.append("\n")
    if report.fine:
        text.append(f"{'fine':10}{_wrapped(', '.join(report.fine)).lstrip()}", "green")
    if report.round_trip_s is not None:
        text.append(f"{'arrived':10}a message, after {report.round_trip_s * 1000:.1f} ms\n", "green")
    style = _STYLES[report.worst] if report.worst and report.exit_code else "bold green"
    text.append(f"{report.status:10}{summary(report)}", style)
    return render(text)


def _format_finding(finding: Finding) -> Text:
    at = f" (at {', '.join(finding.places)})" if finding.places else ""
    text = Text.assemble(
        (f"{finding.severity:10}", _STYLES[finding.severity]),
        (_wrapped(f"{finding.check}: {finding.title}{at}").lstrip(), "bold"),
    )
    if finding.meaning:
        text.append(_wrapped(finding.meaning), "dim")
    return text.append(f"{_INDENT}-> {safe(finding.action)}\n")  # in one line, to be copied


def _wrapped(text: str) -> str:
    """Return a paragraph, which is broken where a terminal's line ends, and in one line elsewhere."""
    width = stdout().width if stdout().is_terminal else len(text) + len(_INDENT)
    return (
        textwrap.indent(textwrap.fill(safe(text), max(width - len(_INDENT), 20), break_on_hyphens=False), _INDENT)
        + "\n"
    )
