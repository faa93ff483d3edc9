"""What was found, for programs: JSON, Nagios and what speaks its language, Prometheus."""

from __future__ import annotations

from dataclasses import asdict

from rsws.check.findings import Severity
from rsws.check.run import Report
from rsws.protocol import json_text
from rsws.text import safe


def summary(report: Report) -> str:
    """Return how many findings there are of each severity."""
    counts = [(report.count(each), each) for each in Severity if report.count(each)]
    plurals = {Severity.WARNING: "warnings", Severity.NOTE: "notes"}
    words = [f"{count} {plurals.get(each, each) if count > 1 else each}" for count, each in counts]
    fine = len(report.fine)
    return ", ".join([*words, f"{fine} check{'s' if fine != 1 else ''} fine"])


def to_json(report: Report) -> str:
    """Return one JSON object on one line."""
    text = json_text({"status": report.status, "exit_code": report.exit_code, **asdict(report)})
    return f"{text.decode()}\n"


def to_nagios(report: Report) -> str:
    """Return a line with the status, the worst finding and the performance data, then a line for each finding."""
    lines = [f"{each.severity.upper()} {each.check}: {each.title}; {each.action}" for each in report.findings]
    worst = f" - {report.findings[0].title}" if report.exit_code else ""
    rtt = [f"rtt={report.round_trip_s * 1000:.1f}ms"] if report.round_trip_s is not None else []
    data = " ".join([*rtt, *[f"{each}={report.count(each)}" for each in Severity], f"time={report.took_s:.2f}s"])
    head = _plain(f"RSWS {report.status.upper()} - {summary(report)}{worst}")
    return "\n".join([f"{head} | {data}", *map(_plain, lines)]) + "\n"


def _plain(line: str) -> str:
    """Return a line without the sign that separates performance data from text."""
    return safe(line).replace("|", "/")


def to_prometheus(report: Report) -> str:
    """Return metrics for node_exporter's textfile collector, in Prometheus' text format."""
    lines = [
        "# HELP rsws_check_status What rsws check exits with: 0 fine, 1 warning, 2 critical, 3 unknown.",
        "# TYPE rsws_check_status gauge",
        f"rsws_check_status {report.exit_code}",
        "# HELP rsws_check_findings Findings by severity.",
        "# TYPE rsws_check_findings gauge",
        *[f'rsws_check_findings{{severity="{each}"}} {report.count(each)}' for each in Severity],
    ]
    by_check = {(each.check, each.severity) for each in report.findings}
    if by_check:
        lines += [
            "# HELP rsws_check_finding 1 for each check and severity of which there is a finding.",
            "# TYPE rsws_check_finding gauge",
            *[f'rsws_check_finding{{check="{name}",severity="{each}"}} 1' for name, each in sorted(by_check)],
        ]
    if report.round_trip_s is not None:
        lines += [
            "# HELP rsws_check_round_trip_seconds Seconds from publishing a message to receiving it.",
            "# TYPE rsws_check_round_trip_seconds gauge",
            f"rsws_check_round_trip_seconds {report.round_trip_s:.6f}",
        ]
    lines += [
        "# HELP rsws_check_duration_seconds Seconds that the check took.",
        "# TYPE rsws_check_duration_seconds gauge",
        f"rsws_check_duration_seconds {report.took_s:.3f}",
    ]
    return "\n".join(lines) + "\n"
