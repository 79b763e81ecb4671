"""Every limit and timeout of the server, its default, and the reason for it.

Each is a dataclass field that knows its unit and its meaning, so that command lines and references are made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# A wait of the system counts milliseconds in 32 bits, and longer than a week nobody means.
_TIMEOUTS = (0.001, 7 * 24 * 3600.0)


def setting(
    default: Any,
    unit: str,
    meaning: str,
    *,
    group: str = "limits",
    between: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its default, the unit of its value ("" for none), and what it means.

    group: the heading it stands under; between: the least and the largest number it may be; choices: the only
    texts it may be, if there are any. Who reads values from a user holds them to that; a Settings object doesn't.
    """
    metadata = {"unit": unit, "meaning": meaning, "group": group, "between": between, "choices": choices}
    return field(default=default, metadata=metadata)


def timeout(default: float, meaning: str) -> Any:
    """A ``setting()`` in seconds."""
    return setting(default, "seconds", meaning, group="timeouts", between=_TIMEOUTS)


@dataclass(frozen=True)
class Settings:
    """Bounds on what a client may send and on how long it may take; sizes in bytes, times in seconds."""

    max_request_line: int = setting(
        8190,
        "bytes",
        "A request line without its end; more is 414. RFC 9112 section 3 wants at least 8000.",
        between=(8, 1 << 20),
    )
    max_field_section: int = setting(
        65536,
        "bytes",
        "All field lines together, and a trailer section; more is 431. A head never costs more memory than this.",
        between=(64, 1 << 24),
    )
    max_fields: int = setting(
        100,
        "number",
        "Field lines in a head; more is 431. Browsers send about 15, and each becomes an environ key.",
        between=(1, 10_000),
    )
    max_body: int = setting(
        1 << 30,
        "bytes",
        "A body; more is 413. Each is received whole before the application is called, so this, times the clients you"
        " allow, is the disk you need.",
        between=(0, 1 << 50),
    )
    max_body_in_memory: int = setting(
        512 * 1024,
        "bytes",
        "A body that is held in memory: most forms and API calls, and no harm in a hundred at a time. A larger one goes"
        " to a temporary file.",
        between=(0, 1 << 30),
    )
    max_chunk_line: int = setting(
        1024, "bytes", "A chunk-size line with its extensions, which nobody uses for anything.", between=(18, 1 << 16)
    )
    max_connections: int = setting(
        10_000,
        "number",
        "Connections at a time; over it accepting pauses, as it does without file descriptors. Each idle one costs one"
        " of these (raise ulimit -n, which is often 1024) and under 2 KiB, or 4 on PyPy.",
        between=(1, 1_000_000),
    )
    max_output: int = setting(
        1 << 20,
        "bytes",
        "How much of a response waits for a client that reads slowly, before its application does.",
        between=(1, 1 << 30),
    )
    head_timeout: float = timeout(
        30.0,
        "From a head's first octet (or the connection's start) to its last: RFC 9110 section 15.5.9 has 408 for more.",
    )
    keep_alive_timeout: float = timeout(
        75.0, "Between two requests; longer than the 60 s that load balancers keep theirs."
    )
    progress_timeout: float = timeout(30.0, "Between two steps forward in receiving a body or in sending a response.")
    linger_timeout: float = timeout(
        2.0, "How long a connection waits after its last response, for the client to read it (RFC 9112 section 9.6)."
    )
    graceful_timeout: float = timeout(1.0, "How long stopping waits for requests that are being received or answered.")
    fast_lane: bool = setting(
        True,
        "",
        "Whether the compiled short cut answers usual requests. It changes no answer; tests compare them.",
        group="development",
    )
    poller: str = setting(
        "best",
        "",
        'How to wait for sockets: "best" of what the platform has, or "selectors", which every one has.',
        group="development",
        choices=("best", "selectors"),
    )
