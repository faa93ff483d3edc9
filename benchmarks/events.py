"""What a message costs the gateway for subscribers over plain HTTP, beside WebSockets: CPU of each delivery.

    .venv/bin/python benchmarks/events.py [--clients 1000] [--messages 300] [--rounds 5]

It runs a Redis or Valkey of this machine and one gateway, and appends the same messages at a steady pace, in turns for
clients of each kind: one message at a time, and sixteen. CPU is the gateway's alone; the clients read and count bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics

from channels import redis_server
from deflate import KEY, Client, Gateway, cpu_s, message, serving, settled

PAUSE_S = 0.04
BATCHES = (1, 16)
REQUEST = "GET /channels/%s HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\nAccept: %s\r\n\r\n"
KINDS = ("WebSocket", "text/event-stream", "application/x-ndjson")


class Subscriber(Client):
    """A client of one of the kinds."""

    def __init__(self, channel: str, kind: str) -> None:
        super().__init__(channel, "")
        self._kind = kind

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._kind == "WebSocket":
            super().connection_made(transport)
        else:
            assert isinstance(transport, asyncio.Transport)
            transport.write((REQUEST % (self.channel, KEY, self._kind)).encode())


async def measure(gateway: Gateway, arguments: argparse.Namespace, kind: str, batch: int) -> float:
    """CPU microseconds for one delivery."""
    channel = f"benchmark:{kind.partition('/')[2] or kind}"
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(lambda: Subscriber(channel, kind), "127.0.0.1", gateway.port)
        for _ in range(arguments.clients)
    ]
    clients = [client for _, client in pairs]
    await settled(clients)
    cpu_before_s = cpu_s(gateway.pid)
    for number in range(arguments.messages):
        texts = [message(number * batch + each, arguments.bytes) for each in range(batch)]
        await asyncio.gather(
            *[gateway.link.call(b"XADD", channel.encode(), b"*", b"messageData", text) for text in texts]
        )
        await asyncio.sleep(PAUSE_S)
    await settled(clients)
    spent_s = cpu_s(gateway.pid) - cpu_before_s
    for transport, _ in pairs:
        transport.abort()
    deliveries: int = arguments.messages * batch * arguments.clients
    return spent_s / deliveries * 1e6


async def run(arguments: argparse.Namespace, redis_port: int) -> None:
    async with serving(redis_port, "--attempt-rate", "0") as gateway:
        print("messages at once   clients                CPU us/delivery   beside WebSockets")
        for batch in BATCHES:
            spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(arguments.rounds):
                for kind, costs in spent.items():
                    costs.append(await measure(gateway, arguments, kind, batch))
            for kind, costs in spent.items():
                ratios = [cost / usual for cost, usual in zip(costs, spent[KINDS[0]], strict=True)]
                ratio = statistics.median(ratios)
                print(f"{batch:16}   {kind:22} {statistics.median(costs):15.2f} {ratio:19.2f}", flush=True)


def main() -> None:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=300, help="batches of them, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=128, help="of a message's data, about")
    arguments = parser.parse_args()
    with redis_server() as port:
        asyncio.run(run(arguments, port))


if __name__ == "__main__":
    main()
