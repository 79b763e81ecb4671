"""Every limit and timeout of the server, its default, and the reason for it.

Each is a dataclass field that carries its unit and its meaning. The command line and the reference of settings are
generated from these fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# The system's wait functions count milliseconds in 32 bits, and more than a week is surely a mistake.
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
    """A dataclass field with its default, the unit of its value ("" for none), and its meaning.

    group: the heading that it is listed under; between: the smallest and the largest number allowed; choices: the
    allowed texts, if the set is closed. ``Options`` checks these; a plain ``Settings`` object checks nothing.
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
        "Longest request line, without its line end; a longer one gets 414. RFC 9112 section 3 recommends at least"
        " 8000.",
        between=(8, 1 << 20),
    )
    max_field_section: int = setting(
        65536,
        "bytes",
        "Total size of the header field lines, and of a trailer section; more gets 431. A request head never uses more"
        " memory than this.",
        between=(64, 1 << 24),
    )
    max_fields: int = setting(
        100,
        "number",
        "Header field lines in a request; more get 431. Browsers send about 15, and each becomes an environ key.",
        between=(1, 10_000),
    )
    max_body: int = setting(
        1 << 30,
        "bytes",
        "Largest request body; a larger one gets 413. A body is received completely before the application is called,"
        " so the disk must hold one body of this size for each client.",
        between=(0, 1 << 50),
    )
    max_body_in_memory: int = setting(
        512 * 1024,
        "bytes",
        "Largest request body that is kept in memory; a larger one goes to a temporary file. The default fits most"
        " forms and API calls.",
        between=(0, 1 << 30),
    )
    max_chunk_line: int = setting(
        1024,
        "bytes",
        "Longest chunk-size line of a chunked body, including chunk extensions, which are practically never used.",
        between=(18, 1 << 16),
    )
    max_connections: int = setting(
        10_000,
        "number",
        "Open connections; at the limit, or without free file descriptors, accepting pauses. Each connection needs a"
        " file descriptor (raise ulimit -n, which is often 1024) and, while idle, less than 2 KiB (4 KiB on PyPy).",
        between=(1, 1_000_000),
    )
    max_output: int = setting(
        1 << 20,
        "bytes",
        "How much response data is buffered for a slow client before the application has to wait.",
        between=(1, 1 << 30),
    )
    head_timeout: float = timeout(
        30.0,
        "Time to receive a request head, from its first byte (or from the start of the connection) to its last. A"
        " client that takes longer gets 408 (RFC 9110 section 15.5.9).",
    )
    keep_alive_timeout: float = timeout(
        75.0,
        "How long a connection may be idle between two requests. The default is longer than the usual 60 s of load"
        " balancers.",
    )
    progress_timeout: float = timeout(
        30.0, "Longest time without progress while receiving a body or sending a response."
    )
    linger_timeout: float = timeout(
        2.0,
        "How long the server waits after a connection's last response, so that the client can read it"
        " (RFC 9112 section 9.6).",
    )
    graceful_timeout: float = timeout(
        1.0, "On shutdown, how long to wait for requests that are being received or answered."
    )
    fast_lane: bool = setting(
        True,
        "",
        "Whether simple requests take the fast lane, a compiled shortcut. Responses are the same; tests compare them.",
        group="development",
    )
    poller: str = setting(
        "best",
        "",
        'How to wait for socket events: "best" takes the best mechanism of the platform, "selectors" is available'
        " everywhere.",
        group="development",
        choices=("best", "selectors"),
    )
