"""Every limit, its default, and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what a client may send."""

    #: Bytes of a request line without its end; RFC 9112 section 3 wants at least 8000.
    request_line: int = 8190
    #: Bytes of all field lines together, and of a trailer section: a head never costs more memory than this.
    field_section: int = 65536
    #: Field lines in a head; browsers send about 15, and each becomes an environ key.
    fields: int = 100
    #: Bytes of a body; what is over it in memory goes to a temporary file, so this bounds the disk.
    body: int = 1 << 30
    #: Bytes of a body that are held in memory: most forms and API calls, and no harm in a hundred at a time.
    body_in_memory: int = 512 * 1024
    #: Bytes of a chunk-size line with its extensions, which nobody uses for anything.
    chunk_line: int = 1024
