"""Every limit and timeout, its default, and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Bounds on what a client may send and on how long it may take; sizes in bytes, times in seconds."""

    #: A request line without its end; RFC 9112 section 3 wants at least 8000.
    request_line: int = 8190
    #: All field lines together, and a trailer section: a head never costs more memory than this.
    field_section: int = 65536
    #: Field lines in a head; browsers send about 15, and each becomes an environ key.
    fields: int = 100
    #: A body; what is over it in memory goes to a temporary file, so this bounds the disk.
    body: int = 1 << 30
    #: A body that is held in memory: most forms and API calls, and no harm in a hundred at a time.
    body_in_memory: int = 512 * 1024
    #: A chunk-size line with its extensions, which nobody uses for anything.
    chunk_line: int = 1024

    #: Connections at a time; over it accepting pauses. Each idle one costs a file descriptor and under 2 KiB.
    connections: int = 10_000
    #: How much of a response waits for a client that reads slowly, before its iterator does.
    output: int = 1 << 20

    #: From a head's first octet (or the connection's start) to its last: RFC 9110 section 15.5.9 has 408 for more.
    head_timeout: float = 30.0
    #: Between two requests; longer than the 60 s that load balancers keep theirs.
    keep_alive: float = 75.0
    #: Between two steps forward in receiving a body or in sending a response.
    progress_timeout: float = 30.0
    #: How long a connection waits after its last response, for the client to read it (RFC 9112 section 9.6).
    linger: float = 2.0
    #: How long shutdown() waits for responses that clients are still reading.
    shutdown: float = 1.0

    #: Whether the compiled short cut answers usual requests. It changes no answer; without it tests are exact.
    fast_lane: bool = True
    #: How to wait for sockets: "best" of what the platform has, or "selectors", which every platform has.
    poller: str = "best"
