"""A backend that streams the answers of a language model, token by token, to the page llm_page.html.

    pip install redis
    python llm_backend.py

Each question is a message of the channel `questions`; its answer is a channel of its own, `answers.<id>`, with an entry
for each token, and one with a field `end` at last. The channel is the memory: who comes late, or reloads the page,
reads it from its beginning and goes on live, and the model is asked once. The gateway can delete old answers:
`rsws serve --retain 'answers.*=100000,1h,expire'`.

REDIS_URL must name the Redis that the gateway uses (default redis://localhost:6379).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis

REDIS_URL = os.environ.get("REDIS_URL") or "redis://localhost:6379"
PAUSE_S = float(os.environ.get("PAUSE_S") or 0.1)


async def ask_model(question: str) -> AsyncIterator[str]:
    """Yield the tokens of an answer. Put the stream of your model's library here; this stand-in only talks."""
    answer = f"You have asked: {question} A model would know more than I do, but it would answer in the same way: "
    for token in (answer + "one token after the other, each an entry of a Redis Stream.").split(" "):
        await asyncio.sleep(PAUSE_S)
        yield f"{token} "


async def answer(redis: Redis, question_id: str, question: str) -> None:
    """Stream the answer to one question, and end its channel, also where the model fails."""
    channel = f"answers.{question_id}"
    try:
        async for token in ask_model(question):
            await redis.xadd(channel, {"messageData": json.dumps(token)})
    except Exception as error:
        await redis.xadd(channel, {"messageData": json.dumps(f"[the model failed: {error}]")})
    await redis.xadd(channel, {"end": "1"})


async def main() -> None:
    redis = Redis.from_url(REDIS_URL, decode_responses=True)
    latest: Any = await redis.xrevrange("questions", count=1)
    position: str = latest[0][0] if latest else "0-0"
    print("waiting for questions", flush=True)
    async with redis, asyncio.TaskGroup() as answers:
        while True:
            # Not without an end: redis-py gives up on a reply after five seconds.
            found: Any = await redis.xread({"questions": position}, block=1000)
            for entry, fields in found[0][1] if found else []:
                position = entry
                with suppress(KeyError, TypeError, ValueError):  # what is no question is passed over
                    question = json.loads(fields["messageData"])
                    answers.create_task(answer(redis, str(question["id"]), str(question["text"])))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
