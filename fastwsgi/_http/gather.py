"""When octets that were written apart are sent together: system calls saved against a copy made."""

from __future__ import annotations

from typing import Any

#: Pieces of more octets together are sent one by one: another system call costs less than the copy. The extension has
#: the same number, in _speedups_handler.pxi.
LARGE_BLOCK = 65536


def gathered(pieces: list[bytes]) -> list[bytes]:
    """The same octets in as few pieces as pays."""
    return [b"".join(pieces)] if len(pieces) > 1 and sum(map(len, pieces)) <= LARGE_BLOCK else pieces


class GatheringStream:
    """An output stream that sends what was written in one piece at each flush."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def flush(self) -> None:
        pieces, self.pieces = self.pieces, []
        if pieces:
            for data in gathered(pieces):
                self.stream.write(data)
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        # fileno() and the rest are for one who wants to write by himself: after what is waiting here.
        self.flush()
        return getattr(self.stream, name)
