"""The forms in which messages go over plain HTTP, made of the frames for WebSockets: once for all who take the form.

So a channel and its ring know of one form alone, and WebSockets pay nothing for the others. A frame's payload needs no
parsing: what is around id and data is the same in all messages, and no quoted name can look like it.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator

from rsws.gateway.websocket.frames import text_payloads
from rsws.gateway.websocket.translation import Translator

_BETWEEN = b'","data":'
_LINE_BREAK = re.compile(rb"\r\n|\r|\n")


def messages_of(frames: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield id and data of each message in joined text frames."""
    for _, payload in text_payloads(frames):
        head, _, data = payload.partition(_BETWEEN)
        yield head[head.rfind(b'"') + 1 :], data[:-1]


class Form(Translator):
    """A form of messages.

    Args:
        in_chunks: Whether HTTP's chunks are around it, as in HTTP/1.1; HTTP/1.0 has none.
    """

    content_type: str
    blank: bytes
    """What means nothing to a reader, and shows that the gateway is there."""

    def __init__(self, in_chunks: bool) -> None:
        super().__init__()
        self._in_chunks = in_chunks

    def make(self, frames: bytes) -> bytes:
        return self.packed(b"".join([self.message(*each) for each in messages_of(frames)]))

    def packed(self, text: bytes) -> bytes:
        """Return what is sent of a text in this form."""
        return b"%x\r\n%b\r\n" % (len(text), text) if self._in_chunks and text else text

    @abstractmethod
    def message(self, stream_id: bytes, data: bytes) -> bytes:
        """Return one message."""

    @abstractmethod
    def begin(self, stream_id: bytes) -> bytes:
        """Return what comes first: the position at which the stream of messages begins."""

    @abstractmethod
    def event(self, name: str, payload: bytes, stream_id: bytes = b"") -> bytes:
        """Return an event other than a message; ``payload`` is its JSON.

        Args:
            stream_id: The position after it, where that is not the one of the last message.
        """

    @abstractmethod
    def comment(self, text: str) -> bytes:
        """Return a text for people."""

    @abstractmethod
    def end(self, retry_ms: int) -> bytes:
        """Return what comes last where the client is to come back after so many milliseconds."""


class ServerSentEvents(Form):
    """Server-Sent Events, as the HTML standard has them."""

    content_type = "text/event-stream"
    blank = b":\n\n"

    def message(self, stream_id: bytes, data: bytes) -> bytes:
        if b"\n" in data or b"\r" in data:  # a reader joins the lines again
            data = _LINE_BREAK.sub(b"\ndata: ", data)
        return b"id: %b\ndata: %b\n\n" % (stream_id, data)

    def begin(self, stream_id: bytes) -> bytes:
        return b"id: %b\n\n" % stream_id

    def event(self, name: str, payload: bytes, stream_id: bytes = b"") -> bytes:
        position = b"id: %b\n" % stream_id if stream_id else b""
        return b"%bevent: %b\ndata: %b\n\n" % (position, name.encode(), payload)

    def comment(self, text: str) -> bytes:
        return b": %b\n\n" % _LINE_BREAK.sub(b" ", text.encode())

    def end(self, retry_ms: int) -> bytes:
        return b"retry: %d\n\n" % retry_ms


class JsonLines(Form):
    """One JSON object a line."""

    content_type = "application/x-ndjson"
    blank = b"\n"

    def message(self, stream_id: bytes, data: bytes) -> bytes:
        if b"\n" in data or b"\r" in data:  # between the tokens: in strings they are escaped
            data = data.replace(b"\r", b" ").replace(b"\n", b" ")
        return b'{"streamId":"%b","data":%b}\n' % (stream_id, data)

    def begin(self, stream_id: bytes) -> bytes:
        return b""

    def event(self, name: str, payload: bytes, stream_id: bytes = b"") -> bytes:
        return payload + b"\n" if name in ("gap", "end") else b""

    def comment(self, text: str) -> bytes:
        return b""

    def end(self, retry_ms: int) -> bytes:
        return b""


KINDS: tuple[type[Form], ...] = (ServerSentEvents, JsonLines)
_FORMS = {(kind, in_chunks): kind(in_chunks) for kind in KINDS for in_chunks in (False, True)}


def form(kind: type[Form], *, in_chunks: bool) -> Form:
    """Return the form that all who take it share."""
    return _FORMS[kind, in_chunks]
