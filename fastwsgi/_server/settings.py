"""Every limit and timeout of the server, its default, and the reason for it.

Each is a dataclass field that knows its unit and its meaning, so that command lines and references are made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def setting(default: Any, unit: str, meaning: str) -> Any:
    """A dataclass field with its default, the unit of its value ("" for none), and what it means."""
    return field(default=default, metadata={"unit": unit, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """Bounds on what a client may send and on how long it may take; sizes in bytes, times in seconds."""

    max_request_line: int = setting(
        8190, "bytes", "A request line without its end; RFC 9112 section 3 wants at least 8000."
    )
    max_field_section: int = setting(
        65536, "bytes", "All field lines together, and a trailer section: a head never costs more memory than this."
    )
    max_fields: int = setting(
        100, "number", "Field lines in a head; browsers send about 15, and each becomes an environ key."
    )
    max_body: int = setting(
        1 << 30, "bytes", "A body; what is over it in memory goes to a temporary file, so this bounds the disk."
    )
    max_body_in_memory: int = setting(
        512 * 1024,
        "bytes",
        "A body that is held in memory: most forms and API calls, and no harm in a hundred at a time.",
    )
    max_chunk_line: int = setting(
        1024, "bytes", "A chunk-size line with its extensions, which nobody uses for anything."
    )
    max_connections: int = setting(
        10_000,
        "number",
        "Connections at a time; over it accepting pauses. Each idle one costs a file descriptor and under 2 KiB.",
    )
    max_output: int = setting(
        1 << 20, "bytes", "How much of a response waits for a client that reads slowly, before its application does."
    )
    head_timeout: float = setting(
        30.0,
        "seconds",
        "From a head's first octet (or the connection's start) to its last: RFC 9110 section 15.5.9 has 408 for more.",
    )
    keep_alive_timeout: float = setting(
        75.0, "seconds", "Between two requests; longer than the 60 s that load balancers keep theirs."
    )
    progress_timeout: float = setting(
        30.0, "seconds", "Between two steps forward in receiving a body or in sending a response."
    )
    linger_timeout: float = setting(
        2.0,
        "seconds",
        "How long a connection waits after its last response, for the client to read it (RFC 9112 section 9.6).",
    )
    graceful_timeout: float = setting(
        1.0, "seconds", "How long stopping waits for requests that are being received or answered."
    )
    fast_lane: bool = setting(
        True, "", "Whether the compiled short cut answers usual requests. It changes no answer; tests compare them."
    )
    poller: str = setting(
        "best", "", 'How to wait for sockets: "best" of what the platform has, or "selectors", which every one has.'
    )
