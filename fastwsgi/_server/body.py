"""``wsgi.input``: a stream that holds one request's body, and ends where that ends.

PEP 3333, "Input and Error Streams". The streams are the standard library's, so read(), readline(),
readlines() and iteration are what they are for any file.
"""

from __future__ import annotations

import io
import tempfile
from typing import IO, Any

from fastwsgi._grammar import BadRequest

from .request import ChunkedBody
from .settings import Limits

_BLOCK = 65536


class IncompleteBodyError(ConnectionAbortedError):
    """The client went away in the middle of a body: what was read of it is not all there is."""


class _SizedBody(io.RawIOBase):
    """The next octets of a stream, up to a number of them; raises if the stream ends before."""

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


def read_chunked(stream: Any, limits: Limits) -> tuple[IO[bytes], int]:
    """Read a whole chunked body from a stream; return a file of its data, at the start, and their number.

    Over ``limits.body_in_memory`` the file is a temporary one on disk. Raises BadRequest for bad framing and
    for a body that ends too early: so it never looks complete.
    """
    chunked = ChunkedBody(limits)
    file = tempfile.SpooledTemporaryFile(limits.body_in_memory)  # noqa: SIM115 - the caller's to close
    try:
        while chunked.wanted >= 0:
            if not chunked.wanted:
                chunked.take_line(stream.readline(chunked.longest_line + 1))
                continue
            data = stream.read(min(chunked.wanted, _BLOCK))
            if not data:
                raise BadRequest(400, "Incomplete chunked body")
            file.write(data)
            chunked.take_data(len(data))
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, chunked.size
