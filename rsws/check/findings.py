"""What a check is, and what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeVar

Subject = TypeVar("Subject")


class Severity(StrEnum):
    """How bad a finding is, the worst first: the order is that of Nagios' plugins."""

    CRITICAL = "critical"
    WARNING = "warning"
    UNKNOWN = "unknown"
    """Something could not be looked at."""
    NOTE = "note"
    """Good to know; it does not change the exit code."""


EXIT_CODES = {Severity.CRITICAL: 2, Severity.WARNING: 1, Severity.UNKNOWN: 3, Severity.NOTE: 0}
"""The exit code where a severity is the worst, which is what Nagios' plugins exit with; 0 where nothing was found."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an operator should know. Its texts hold no secret."""

    severity: Severity
    title: str
    """What is the matter."""
    action: str
    """What to do about it."""
    meaning: str = ""
    """What it leads to; empty where the title says it."""
    check: str = ""
    """The name of the check that has found it."""
    places: tuple[str, ...] = ()
    """The servers it is about; empty where there is only one it can be."""


def critical(title: str, action: str, meaning: str = "") -> Finding:
    return Finding(Severity.CRITICAL, title, action, meaning)


def warning(title: str, action: str, meaning: str = "") -> Finding:
    return Finding(Severity.WARNING, title, action, meaning)


def unknown(title: str, action: str, meaning: str = "") -> Finding:
    return Finding(Severity.UNKNOWN, title, action, meaning)


def note(title: str, action: str, meaning: str = "") -> Finding:
    return Finding(Severity.NOTE, title, action, meaning)


Found = list[Finding] | None
"""What a check returns: what it has found, nothing where all is fine; None where there was nothing to look at."""


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One thing to look at."""

    name: str
    looks_for: str
    run: Callable[[Subject], Awaitable[Found]]

    async def find(self, subject: Subject, timeout_s: float, ends: type[Exception]) -> Found:
        """Return what it finds; a check that fails or takes too long is a finding, too, and disturbs no other.

        Args:
            ends: The error after which no other check of the subject can succeed, which is raised.
        """
        try:
            async with asyncio.timeout(timeout_s):
                found = await self.run(subject)
        except TimeoutError:
            found = [unknown(f"{self.looks_for}: no answer in time", "try again, with a longer --timeout")]
        except ends:
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            found = [unknown(f"{self.looks_for}: could not be looked at ({cause})", "see whether it goes on, and tell")]
        return found and [replace(each, check=self.name) for each in found]


def worst_first(findings: Sequence[Finding], checks: Sequence[str]) -> list[Finding]:
    """Return the findings by severity, then in the order of the checks; what several servers share stands once."""
    merged: dict[Finding, tuple[str, ...]] = {}
    for each in findings:
        key = replace(each, places=())
        merged[key] = (*merged.get(key, ()), *each.places)
    severities = list(Severity)

    def order(finding: Finding) -> tuple[int, int]:
        place = checks.index(finding.check) if finding.check in checks else -1
        return severities.index(finding.severity), place

    return sorted([replace(each, places=at) for each, at in merged.items()], key=order)
