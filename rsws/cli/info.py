"""``rsws info``: all that there is to know of one channel."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from rsws.cli import channel_names, stdio, terminal
from rsws.cli.data import check_channel
from rsws.cli.endpoint import REDIS_OPTIONS, Endpoint
from rsws.cli.exits import ExitCode, Failure, epilog
from rsws.cli.gateway_http import decode, get, list_channels
from rsws.cli.message_display import iso_time
from rsws.cli.options import from_settings
from rsws.cli.sources import Sources, find_sources, reading_redis
from rsws.errors import about
from rsws.protocol import StreamId, is_json
from rsws.settings import ClientSettings, Settings

if TYPE_CHECKING:
    from rsws.redis.target import RedisTarget
    from rsws.streams.survey import StreamEntry

EPILOG = epilog(
    "rsws info news",
    "rsws info news --url ws://127.0.0.1:8080 --redis-url redis://127.0.0.1",
    "rsws info news | jq .entries",
)


@from_settings(
    Settings, panel="Redis, and how the gateway is run", only=(*REDIS_OPTIONS, "retain", "field"), argument="redis"
)
@from_settings(ClientSettings, panel="Gateway", argument="client")
def info(
    redis: Settings,
    client: ClientSettings,
    channel: Annotated[
        str, typer.Argument(metavar="CHANNEL", help="The channel to look at.", autocompletion=channel_names.at_sources)
    ],
) -> None:
    """Say what there is of a channel: its ends, sizes, consumer groups, retention, and who subscribes.

    Redis is asked, as `rsws xadd` finds it, a gateway where --url or RSWS_URL names one: it knows the subscribers. Who
    they are it tells the secret key alone. Where both are named, both are asked; a flag overrules the environment.
    Give --retain and --field as to the gateway.
    """
    check_channel(channel)
    from rsws.streams.fields import MessageFields
    from rsws.streams.retention import Rule

    with about("retain"):
        rules = [text for text in redis.retain if Rule.parse(text).names(channel)]
    with about("field"):
        field = MessageFields(redis.field).of(channel).decode()
    asyncio.run(_print(channel, find_sources(redis, client), rules, field))


async def _print(channel: str, sources: Sources, rules: list[str], field: str) -> None:
    said: dict[str, Any] = {"channel": channel, "exists": False}
    if sources.redis is not None:
        said |= await _ask_redis(sources.redis, channel, field)
        said |= {"field": field, "retain": rules}
    if sources.gateway is not None:
        said |= {**await _ask_gateway(sources.gateway, channel, facts=sources.redis is None)}
    if not os.isatty(stdio.STDOUT):
        await stdio.write(msgspec.json.encode(said) + b"\n")
        return
    from rsws.cli.info_display import format_info

    await stdio.write(format_info(said, sources).encode())


async def _ask_redis(target: RedisTarget, channel: str, field: str) -> dict[str, Any]:
    from rsws.streams.survey import Survey, age_s

    with reading_redis():
        async with Survey(target) as survey:
            facts = await survey.look(channel)
            if facts is None:
                return {"exists": False}
            groups = await survey.groups(channel)
            ends = [_Shown.of(each, field) for each in await survey.ends(channel)]
    if survey.sizes_refused is not None:
        terminal.print_line(terminal.format_warning(f"no size: Redis refuses MEMORY USAGE: {survey.sizes_refused}"))
    return {
        "exists": True,
        "entries": facts.entries,
        "bytes": facts.bytes,
        "firstId": None if facts.first is None else str(facts.first),
        "lastId": str(facts.last),
        "age": age_s(facts.last, time.time()),
        "entriesAdded": facts.added,
        "maxDeletedId": None if facts.deleted is None else str(facts.deleted),
        "ended": bool(ends) and ends[-1].ends,
        "first": ends[0].told if ends else None,
        "last": ends[-1].told if ends else None,
        "groups": groups
        and [
            {
                "name": each.name,
                "consumers": each.consumers,
                "pending": each.pending,
                "lastId": str(each.last),
                "lag": each.lag,
            }
            for each in groups
        ],
    }


@dataclass(frozen=True, slots=True)
class _Shown:
    """An entry, as it is told."""

    told: dict[str, Any]
    ends: bool

    @classmethod
    def of(cls, entry: StreamEntry, field: str) -> _Shown:
        from rsws.streams.fields import as_object, read_fields

        flat = [part for pair in entry.fields for part in pair]
        data, ends = read_fields(flat, field.encode())
        told: dict[str, Any] = {"id": str(entry.id), "time": _time(entry.id)}
        if data is not None and is_json(data):
            told["data"] = msgspec.Raw(terminal.one_line(data.decode()).encode())
        else:
            told["fields"] = msgspec.Raw(as_object(flat))
        return cls(told, ends)


def _time(stream_id: StreamId) -> str | None:
    from rsws.streams.survey import age_s

    return iso_time(stream_id) if age_s(stream_id, time.time()) is not None else None


async def _ask_gateway(gateway: Endpoint, channel: str, *, facts: bool) -> dict[str, Any]:
    """Return what a gateway tells.

    Args:
        facts: Whether it is to tell of the stream, too, as nobody else does.
    """
    from rsws.streams.survey import age_s

    said: dict[str, Any] = {"subscribers": 0}
    async for page in list_channels(gateway, channel):
        for each in page:
            if each.channel == channel:
                said = {"subscribers": each.subscribers}
                if facts:
                    said |= {
                        "exists": True,
                        "entries": each.entries,
                        "firstId": each.first_id,
                        "lastId": each.last_id,
                        "age": age_s(StreamId.parse(each.last_id), time.time()),
                    }
    what = f"who subscribes to {channel}"
    try:
        text = await get(gateway, f"/clients?channel={quote(channel, safe='')}", what)
    except Failure as error:
        if error.code not in (ExitCode.REFUSED, ExitCode.ERROR):  # a JWT, a key with --key-may, an older gateway
            raise
        return said
    told = decode(text, dict[str, Any], what)
    return said | {each: told[each] for each in ("worker", "subscribers", "behind", "gaps", "subscriptions")}
