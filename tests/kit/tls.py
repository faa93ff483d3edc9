"""TLS as tests need it: an authority, its certificates in files, and a server that speaks TLS for one that can't."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trustme

from kit.support import free_port


class Authority:
    """An authority, whose certificate is the file ``ca``.

    Args:
        directory: Where its files are put.
        intermediate: Whether its certificates are issued by another one in between, which comes with each.
    """

    def __init__(self, directory: Path, *, intermediate: bool = False) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self._issuer = self._authority.create_child_ca() if intermediate else self._authority
        self.ca = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, **validity: Any) -> tuple[Path, Path]:
        """The files of a certificate for the host ``name`` and of its key; ``validity`` as trustme has it."""
        made = self._issuer.issue_cert(name, **validity)
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        made.private_key_pem.write_to_path(str(key))
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        return certificate, key

    @property
    def trusted(self) -> ssl.SSLContext:
        """The context of a client that trusts it alone."""
        return ssl.create_default_context(cafile=self.ca)

    @asynccontextmanager
    async def in_front_of(
        self, port: int, name: str = "localhost", *, of_clients: bool = False, **validity: Any
    ) -> AsyncIterator[int]:
        """The port of a server that speaks TLS and carries everything to ``port``.

        Args:
            name: The host in its certificate.
            of_clients: Whether it wants a certificate of this authority from its clients.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.issue(name, **validity))
        if of_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            from_server, server = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(carry(reader, server), carry(from_server, writer), return_exceptions=True)
            for each in (writer, server):
                each.transport.abort()

        server = await asyncio.start_server(accept, "127.0.0.1", free_port(), ssl=context)
        async with server:
            yield server.sockets[0].getsockname()[1]
