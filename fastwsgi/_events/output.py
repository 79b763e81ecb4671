"""The output queue of one connection: octets and ranges of files that wait to be sent."""

from __future__ import annotations

import os
from collections import deque
from typing import Any, cast

from fastwsgi._http.spool import discard, spool_file

from .transport import Transport

_BLOCK = 65536
_MOST_AT_ONCE = 1 << 20
# The memory that a piece takes besides its octets. It counts because an application may send many very short pieces.
_PIECE = 256


class FileRange:
    """Octets of a file from an offset on. Only on Windows is the file's own position used.

    ours: whether to close the file when the octets are sent.
    """

    __slots__ = ("count", "file", "must_be_read", "offset", "ours")

    def __init__(self, file: Any, offset: int, count: int, ours: bool = False) -> None:
        self.file = file
        self.offset = offset
        self.count = count
        self.ours = ours
        #: Whether sendfile() doesn't work on this file.
        self.must_be_read = False

    def duplicate(self) -> FileRange:
        """The same octets with a descriptor of our own, in case the file is closed before they are sent."""
        file = os.fdopen(os.dup(self.file.fileno()), "rb", buffering=0)
        return FileRange(file, self.offset, self.count, ours=True)

    def read(self, size: int) -> bytes:
        """Read octets from the offset on. Raises FileError."""
        try:
            if hasattr(os, "pread"):
                return os.pread(self.file.fileno(), size, self.offset)
            self.file.seek(self.offset)
            return cast(bytes, self.file.read(size))
        except OSError as error:
            raise FileError(error.errno, error.strerror) from error


class FileError(OSError):
    """A file can't be sent: it can't be read, or it is shorter than the length that the client was promised."""


class Output:
    """A queue of octets and file ranges in front of a socket.

    limit: how many octets may wait in memory; more go to a temporary file.
    """

    __slots__ = ("_limit", "_pieces", "size")

    def __init__(self, limit: int) -> None:
        #: How many octets of memory the queue takes up.
        self.size = 0
        self._limit = limit
        self._pieces: deque[memoryview | FileRange] = deque()

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def octets(self) -> int:
        """How many octets wait, in memory or in files."""
        return sum(piece.count if isinstance(piece, FileRange) else len(piece) for piece in self._pieces)

    def put(self, data: bytes | memoryview, is_rest: bool = False) -> None:
        """Add octets to the queue. Raises OSError if they belong in a temporary file that can't be written.

        is_rest: whether they continue the last block; then they stay in memory if that block is in memory.
        """
        if self.size >= self._limit and not (is_rest and isinstance(self._pieces[-1], memoryview)):
            self._put_on_disk(data)
        elif data:
            self._pieces.append(memoryview(data))
            self.size += len(data) + _PIECE

    def put_file(self, file_range: FileRange) -> None:
        if file_range.count:
            self._pieces.append(file_range)
        elif file_range.ours:
            discard(file_range.file)

    def _put_on_disk(self, data: bytes | memoryview) -> None:
        spill = self._pieces[-1] if self._pieces else None
        if not isinstance(spill, FileRange) or not spill.ours:
            spill = FileRange(spool_file(), 0, 0, ours=True)
            self._pieces.append(spill)
        spill.file.seek(0, os.SEEK_END)
        spill.file.write(data)
        spill.file.flush()
        spill.count += len(data)

    def flush(self, sock: Any, transport: Transport) -> int:
        """Send as many octets as the socket takes now, up to a limit, and return how many.

        Raises FileError if a file fails, another OSError if the socket does.
        """
        taken = 0
        pieces = self._pieces
        while pieces and taken < _MOST_AT_ONCE:
            first = pieces[0]
            if isinstance(first, memoryview):
                sent = transport.send(sock, first)
                self._octets_sent(first, sent)
            elif transport.send_file is None or first.must_be_read:
                # Copy it into memory, so that a second try offers the same octets.
                block = first.read(min(first.count, _BLOCK))
                self._range_sent(first, len(block))
                pieces.appendleft(memoryview(block))
                self.size += len(block) + _PIECE
                continue
            else:
                count = min(first.count, _MOST_AT_ONCE)
                answer = transport.send_file(sock, first.file.fileno(), first.offset, count)
                if answer is None:
                    break
                if answer < 0:
                    first.must_be_read = True
                    continue
                self._range_sent(first, sent := answer)
            if not sent:
                break
            taken += sent
        return taken

    def _octets_sent(self, first: memoryview, sent: int) -> None:
        self.size -= sent
        if sent == len(first):
            self._pieces.popleft()
            self.size -= _PIECE
        elif sent:
            self._pieces[0] = first[sent:]

    def _range_sent(self, first: FileRange, sent: int) -> None:
        if not sent:
            raise FileError("the file is shorter than it was")
        first.offset += sent
        first.count -= sent
        if not first.count:
            self._pieces.popleft()
            if first.ours:
                discard(first.file)

    def clear(self) -> None:
        """Drop everything that waits, and close the files that are ours."""
        for piece in self._pieces:
            if isinstance(piece, FileRange) and piece.ours:
                discard(piece.file)
        self._pieces.clear()
        self.size = 0
