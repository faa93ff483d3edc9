"""``rsws check``: what loses messages, and whether all of it works."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from rsws.certificates import client_context
from rsws.cli import channel_names, stdio
from rsws.cli.data import check_channel
from rsws.cli.endpoint import REDIS_ADDRESS_OPTIONS, Endpoint, find_gateway, find_redis, gateway_url
from rsws.cli.exits import CHECK_EXIT_HELP, Failure, epilog
from rsws.cli.options import finite, from_settings
from rsws.errors import UsageError, about
from rsws.settings import ClientSettings, Settings
from rsws.urls import parse_place

if TYPE_CHECKING:
    from rsws.check.gateway_checks import Gateway
    from rsws.check.redis_server import Plan
    from rsws.check.run import Report
    from rsws.redis.target import RedisTarget

EPILOG = epilog(
    "rsws check",
    "rsws check --retain 'news.*=10000,7d' --skip access",
    "rsws check --format nagios --no-redis --url wss://news.example.com",
    codes=CHECK_EXIT_HELP,
)
_REDIS = (
    *REDIS_ADDRESS_OPTIONS,
    "retain",
    "channels",
    "field",
    "wait_replicas",
    "admin",
)


def _names_of_checks(incomplete: str) -> list[str]:
    from rsws.check.run import CHECKS

    return [each.name for each in CHECKS if each.name.startswith(incomplete)]


class Format(StrEnum):
    """The format of the report."""

    TEXT = "text"
    JSON = "json"
    NAGIOS = "nagios"
    PROMETHEUS = "prometheus"


@from_settings(Settings, panel="Redis, and how the gateway is run", only=_REDIS, argument="redis")
@from_settings(ClientSettings, panel="Gateway", argument="client")
def check(
    redis: Settings,
    client: ClientSettings,
    format: Annotated[
        Format, typer.Option(help="text, for reading; json, one object; nagios; prometheus, for a textfile collector.")
    ] = Format.TEXT,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, callback=finite, help="How long gateway and Redis may take to answer."
        ),
    ] = 5,
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="CHANNEL",
            help="Where to publish. Not given: a new one, which is deleted afterwards.",
            autocompletion=channel_names.at_gateway,
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK", help="Leave out a check by its name; may be repeated.", autocompletion=_names_of_checks
        ),
    ] = None,
    no_gateway: Annotated[bool, typer.Option("--no-gateway", help="Look at Redis alone.")] = False,
    no_redis: Annotated[bool, typer.Option("--no-redis", help="Look at the gateway alone.")] = False,
) -> None:
    """Look for what loses messages, and try whether they arrive: at the gateway and its Redis.

    Findings come worst first, each with what to do. The last check publishes, cuts its connection, and resumes. Nothing
    is changed, but for those messages, which are deleted again. Give --retain, --channels, --field, --wait-replicas
    and --admin as to the gateway.
    """
    from rsws.check.redis_server import Plan
    from rsws.check.run import CHECKS
    from rsws.patterns import Patterns
    from rsws.streams.fields import MessageFields
    from rsws.streams.retention import Rule

    if channel is not None:
        check_channel(channel)
    names = [each.name for each in CHECKS]
    if unknown := set(skip or ()).difference(names):
        raise UsageError(f"--skip: there is no check {unknown.pop()!r}; they are {', '.join(names)}")
    if no_gateway and no_redis:
        raise UsageError("--no-gateway and --no-redis together leave nothing to look at")
    channels = Patterns.of(redis.channels)
    with about("retain"):
        rules = [Rule.parse(each, channels) for each in redis.retain]
    with about("field"):
        message_fields = MessageFields(redis.field)
    plan = Plan(
        rules,
        redis.wait_replicas,
        timeout,
        channels,
        message_fields,
    )
    target = None if no_redis else find_redis(replace(redis, redis_timeout_s=timeout))
    gateway = None if no_gateway else _gateway(client, timeout, redis.admin)
    raise typer.Exit(asyncio.run(_check(gateway, target, plan, channel, skip or (), format)))


def _gateway(settings: ClientSettings, timeout_s: float, admin: str | None) -> Gateway:
    from rsws.check.gateway_checks import Gateway
    from rsws.datadir import DataDir

    try:
        found = find_gateway(settings)
    except Failure as error:  # there is no token, which is a finding
        found = Endpoint(
            gateway_url(settings), None, str(error), client_context(settings.ca, insecure=settings.insecure)
        )
    no_token = "" if found.token else found.source
    data = DataDir(settings.data_dir)
    place = parse_place(admin) if admin is not None else None
    return Gateway(found.url, found.token, no_token, data, timeout_s, found.tls, place)


async def _check(
    gateway: Gateway | None,
    target: RedisTarget | None,
    plan: Plan,
    channel: str | None,
    skip: list[str] | tuple[()],
    format: Format,
) -> int:
    from rsws.check.run import look

    report = await look(gateway, target, plan, channel=channel, skip=skip)
    await stdio.write(_shown(report, format).encode())
    return report.exit_code


def _shown(report: Report, format: Format) -> str:
    from rsws.check import report as formats

    match format:
        case Format.JSON:
            return formats.to_json(report)
        case Format.NAGIOS:
            return formats.to_nagios(report)
        case Format.PROMETHEUS:
            return formats.to_prometheus(report)
        case Format.TEXT:
            from rsws.cli.check_display import format_report

            return format_report(report)
