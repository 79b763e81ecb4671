"""Temporary files for octets that are too many to wait in memory: a request's body, or an answer on its way out."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from typing import IO, Any

from .grammar import BadRequest

# What a disk, a quota or a limit on the size of files says when it has no room left.
_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


def find_directory() -> None:
    """Find a directory for temporary files now: the search writes a file, and later the disk may be full."""
    with contextlib.suppress(OSError):
        tempfile.gettempdir()


def spool_file() -> IO[bytes]:
    """A new temporary file without a name. Raises OSError if there can't be one."""
    return tempfile.TemporaryFile()


def discard(file: Any) -> None:
    """Close a file whose octets are of no use any more.

    Errors are ignored: after a write that failed, close() tries the same write again, fails again, and closes the
    descriptor all the same.
    """
    with contextlib.suppress(Exception):
        file.close()


def no_room(error: OSError | MemoryError) -> BadRequest:
    """The refusal of a request whose body can't be stored: no fault of the client's, but an answer to it.

    507 (RFC 4918 section 11.5) where the disk is full, 503 (RFC 9110 section 15.6.4) for any other reason.
    """
    is_full = isinstance(error, OSError) and error.errno in _FULL
    return BadRequest(507 if is_full else 503, "The request's body can't be stored")
