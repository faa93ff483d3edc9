"""``rsws xadd``: write straight to Redis, as any backend does."""

from __future__ import annotations

import asyncio
import os
import shlex
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

import typer

from rsws.cli import data, stdio, terminal
from rsws.cli.exits import ExitCode, Failure, describe
from rsws.cli.options import from_settings
from rsws.errors import RedisUnavailable, SetupError, StoreError, UsageError
from rsws.settings import Settings

if TYPE_CHECKING:
    from rsws.streams.publisher import Publisher

EXAMPLES = """\
  rsws xadd pending '{"type":"ALERT"}'
  rsws xadd pending --lines --maxlen 100000 < messages.jsonl
  rsws xadd pending '{"type":"ALERT"}' --print-command"""
