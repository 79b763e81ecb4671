"""``wsgi.input``: a stream with one request's body, which ends where the body ends.

PEP 3333, "Input and Error Streams". The streams are the standard library's, so read(), readline(), readlines() and
iteration work as for any file.
"""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any

from .chunked import ChunkedBody
from .grammar import BadRequest
from .spool import discard, no_room, spool_file

if TYPE_CHECKING:
    from .settings import Settings

_BLOCK = 65536


class IncompleteBodyError(ConnectionAbortedError):
    """The client left in the middle of a body, so the part that was read is incomplete."""


class _SizedBody(io.RawIOBase):
    """The next octets of a stream, up to a length; raises if the stream ends before that."""

    def __init__(self, stream: Any, length: int) -> None:
        self.stream = stream
        self.remaining = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self.remaining)
        if not size:
            return 0
        data = self.stream.read1(size) if hasattr(self.stream, "read1") else self.stream.read(size)
        if not data:
            raise IncompleteBodyError(f"the client sent {self.remaining} bytes less than its Content-Length")
        buffer[: len(data)] = data
        self.remaining -= len(data)
        return len(data)


class BodyReader(io.BufferedReader):
    """A body of known length, read from the connection as the application reads it."""

    def __init__(self, stream: Any, length: int) -> None:
        super().__init__(_SizedBody(stream, length))


class BodyFile:
    """A file for a body that is being received: in memory, or on disk if larger than ``settings.max_body_in_memory``.

    Raises BadRequest, with the reason as its cause, if the body can't be stored.
    """

    def __init__(self, settings: Settings) -> None:
        self.file: IO[bytes] = io.BytesIO()
        self.size = 0
        self._room = settings.max_body_in_memory

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.size += len(data)
        try:
            if self.size > self._room and isinstance(self.file, io.BytesIO):
                memory, self.file = self.file, spool_file()
                self.file.write(memory.getbuffer())
            self.file.write(data)
        except (OSError, MemoryError) as error:
            raise no_room(error) from error

    def rewound(self) -> IO[bytes]:
        """Go to the start of the file and return it."""
        try:
            self.file.seek(0)  # this also writes buffered octets
        except OSError as error:
            raise no_room(error) from error
        return self.file

    def close(self) -> None:
        """Close and drop the file."""
        discard(self.file)


class IncomingBody:
    """The body of one request, fed with octets in pieces of any size. Its temporary file is the only I/O.

    length: how many octets the body has, or None if it is chunked.
    """

    def __init__(self, length: int | None, settings: Settings) -> None:
        self.content = BodyFile(settings)
        self._chunked = None if length is not None else ChunkedBody(settings)
        self._missing = length or 0
        self._scanned = 0

    def take(self, buffer: bytearray) -> bool:
        """Take the body's octets off the start of the buffer. Return whether the body is complete.

        Raises BadRequest for bad framing and for a body over its limit.
        """
        if self._chunked is None:
            self._missing -= self._move(buffer, self._missing)
            return not self._missing
        return self._take_chunks(buffer, self._chunked)

    def _move(self, buffer: bytearray, size: int) -> int:
        if size >= len(buffer):
            size = len(buffer)
            self.content.write(buffer)
        else:
            self.content.write(buffer[:size])
        del buffer[:size]
        return size

    def _take_chunks(self, buffer: bytearray, chunked: ChunkedBody) -> bool:
        while chunked.wanted >= 0:
            if chunked.wanted:
                if not buffer:
                    return False
                chunked.take_data(self._move(buffer, chunked.wanted))
                continue
            end = buffer.find(b"\n", self._scanned) + 1
            if not end and len(buffer) <= chunked.longest_line:
                self._scanned = len(buffer)
                return False
            self._scanned = 0
            chunked.take_line(bytes(buffer[: end or len(buffer)]))
            del buffer[:end]
        return True


def read_chunked(stream: Any, settings: Settings) -> tuple[IO[bytes], int]:
    """Read a whole chunked body from a stream. Return a file with its data, at the start, and the size of the data.

    Raises BadRequest for bad framing, and for a body that ends too early, so that it never looks complete.
    """
    chunked = ChunkedBody(settings)
    content = BodyFile(settings)
    try:
        while chunked.wanted >= 0:
            if not chunked.wanted:
                chunked.take_line(stream.readline(chunked.longest_line + 1))
                continue
            data = stream.read(min(chunked.wanted, _BLOCK))
            if not data:
                raise BadRequest(400, "Incomplete chunked body")
            content.write(data)
            chunked.take_data(len(data))
        return content.rewound(), chunked.size
    except BaseException:
        content.close()
        raise
