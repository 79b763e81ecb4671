"""Temporary files for octets that don't fit in memory: a large request body, or an answer to a slow client."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from typing import IO, Any

from .grammar import BadRequest

# The errors of a full disk, a used-up quota, and a limit on the size of files.
_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


def find_directory() -> None:
    """Find a directory for temporary files now: the search writes a file, and later the disk may be full."""
    with contextlib.suppress(OSError):
        tempfile.gettempdir()


def spool_file() -> IO[bytes]:
    """Open a new temporary file without a name. Raises OSError if that fails."""
    return tempfile.TemporaryFile()


def discard(file: Any) -> None:
    """Close a file whose octets are no longer needed.

    Errors are ignored: after a failed write, close() tries the same write again, fails again, and still closes the
    descriptor.
    """
    with contextlib.suppress(Exception):
        file.close()


def no_room(error: OSError | MemoryError) -> BadRequest:
    """The error for a request whose body can't be stored, which isn't the client's fault.

    507 (RFC 4918 section 11.5) if the disk is full, 503 (RFC 9110 section 15.6.4) for any other reason.
    """
    is_full = isinstance(error, OSError) and error.errno in _FULL
    return BadRequest(507 if is_full else 503, "The request's body can't be stored")
