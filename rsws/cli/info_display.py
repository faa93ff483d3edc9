"""What ``rsws info`` shows to a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from rsws.cli import terminal
from rsws.cli.message_display import clock
from rsws.cli.sources import Sources
from rsws.cli.units import shortened, size, span
from rsws.protocol import StreamId
from rsws.text import counted

MOST_SHOWN = 20
"""The most groups, and the most subscriptions, that are shown."""
_LABEL = 13


def format_info(said: dict[str, Any], sources: Sources) -> str:
    """Return the lines for standard output: of each fact its name, and what is said of it."""
    text = Text()
    for name, value in _facts(said):
        line = Text.assemble((f"{name:{_LABEL}}", "dim"), value)
        line.truncate(max(40, terminal.stdout().width), overflow="ellipsis")
        text.append_text(line).append("\n")
    text.append(f"as {sources.text} {'say' if sources.redis and sources.gateway else 'says'}", "dim")
    return terminal.render(text)


def _facts(said: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "channel", terminal.safe(said["channel"])
    if not said["exists"]:
        yield "", "no such stream yet"
    else:
        yield from _stream(said)
    if "retain" in said:
        yield "retention", ", ".join(map(terminal.safe, said["retain"])) or "none, as far as --retain says"
        yield "field", terminal.safe(said["field"]) if said["field"] != "*" else "all of them are the message"
    yield from _groups(said.get("groups") or [])
    yield from _subscribers(said)


def _stream(said: dict[str, Any]) -> Iterator[tuple[str, str]]:
    gone = (said.get("entriesAdded") or 0) - said["entries"]
    yield "entries", f"{said['entries']:,}" + (f" ({gone:,} more were added, and are gone)" if gone > 0 else "")
    if said.get("bytes") is not None:
        yield "memory", f"{size(said['bytes'])} ({said['bytes']:,} bytes)"
    first, last = said.get("first"), said.get("last")
    if first is None:
        yield "first id", said["firstId"] or "none: nothing is there"
    else:
        yield "first", _entry(first)
    if last is not None:
        yield "last", _entry(last)
    if last is None or last["id"] != said["lastId"]:
        yield "last id", f"{said['lastId']}{'' if last is None else ' was generated, and its entry is gone'}"
    if said["age"] is not None:
        yield "age", span(said["age"])
    if said.get("ended"):
        yield "ended", "yes, with the last entry"
    if said.get("maxDeletedId", "0-0") not in (None, "0-0"):
        yield "deleted", f"up to {said['maxDeletedId']}, with XDEL"


def _entry(entry: dict[str, Any]) -> str:
    when = clock(StreamId.parse(entry["id"])) if entry["time"] else "(no time)"
    data = bytes(entry["data"] if "data" in entry else entry["fields"]).decode()
    return f"{entry['id']}  {when}  {terminal.safe(data[:1000])}"


def _groups(groups: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for number, each in enumerate(groups[:MOST_SHOWN]):
        lag = "" if each["lag"] is None else f", lag {each['lag']:,}"
        consumers = counted(each["consumers"], "consumer", "consumers")
        yield (
            "groups" if number == 0 else "",
            f"{shortened(each['name'], 24)}: {each['pending']:,} pending at {consumers}{lag}, up to {each['lastId']}",
        )
    if len(groups) > MOST_SHOWN:
        yield "", f"and {len(groups) - MOST_SHOWN:,} more"


def _subscribers(said: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "subscribers" not in said:
        return
    behind, gaps = said.get("behind"), said.get("gaps")
    more = "" if behind is None else f", {behind:,} behind; {gaps:,} gaps told since the gateway opened it"
    yield "subscribers", f"{said['subscribers']:,}{more}"
    for each in said.get("subscriptions", [])[:MOST_SHOWN]:
        who = f" {shortened(each['who'], 24)}" if each["who"] else ""
        lag = f", lag {span(each['lag'])}" if each["lag"] else ", from the beginning" if each["lag"] is None else ""
        yield (
            "",
            f"{each['client']}{who}: {each['state']}{lag}, after {each['lastId']}, {size(each['queuedBytes'])} queued",
        )
    if said.get("worker"):
        yield "", f"those of worker {said['worker']}, which has answered"
