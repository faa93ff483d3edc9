"""A backend that publishes without the gateway: it adds an entry to the Redis Stream, and the gateway hands it to
every client that subscribed to the channel of that name.

    pip install redis
    python backend_publisher.py [CHANNEL [JSON]]

REDIS_URL must name the Redis that the gateway uses (default redis://localhost:6379).
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry

import redis

REDIS_URL = os.environ.get("REDIS_URL") or "redis://localhost:6379"


def publish_message(client: redis.Redis, channel: str, data: Any) -> str:
    """Add ``data`` to ``channel``; returns the id that Redis gave it."""
    return str(client.xadd(channel, {"messageData": json.dumps(data)}))


def main() -> None:
    channel = sys.argv[1] if len(sys.argv) > 1 else "pending"
    alert = {"type": "ALERT", "timestamp": datetime.now(UTC).isoformat(), "details": "Server A is being maintained."}
    # No retries: redis-py would send XADD again when only its reply was lost, and the message would be there twice.
    client = redis.Redis.from_url(REDIS_URL, decode_responses=True, retry=Retry(NoBackoff(), 0))
    try:
        stream_id = publish_message(client, channel, json.loads(sys.argv[2]) if len(sys.argv) > 2 else alert)
    except (redis.RedisError, json.JSONDecodeError) as error:
        sys.exit(f"not published: {error}")
    finally:
        client.close()
    print(f"published to '{channel}' with id {stream_id}")


if __name__ == "__main__":
    main()
