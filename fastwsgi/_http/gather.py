"""Join short pieces of output before they are sent, because a copy costs less than a system call."""

from __future__ import annotations

from typing import Any

#: If the pieces have more octets together, they are sent one by one: the copy would cost more than the system calls.
#: _speedups_handler.pxi has the same number.
LARGE_BLOCK = 65536


def gathered(pieces: list[bytes]) -> list[bytes]:
    """Join the pieces if they are short together; return the same octets."""
    return [b"".join(pieces)] if len(pieces) > 1 and sum(map(len, pieces)) <= LARGE_BLOCK else pieces


class GatheringStream:
    """An output stream that collects octets, and sends them in one piece at each flush."""

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
        # A caller of fileno() may write to the stream directly, so send the collected octets first.
        self.flush()
        return getattr(self.stream, name)
