"""Static types for WSGI: the objects that servers, middleware and applications pass to each other.

All of them are aliases and protocols. An object matches by its structure, so no class has to inherit from
them. Source: PEP 3333, "Specification Details".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeAlias

__all__ = [
    "ErrorStream",
    "FileWrapper",
    "InputStream",
    "StartResponse",
    "WSGIApplication",
    "WSGIEnvironment",
]

# The result of sys.exc_info(): inside an except clause, and also outside of one.
_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType]
_OptExcInfo: TypeAlias = _ExcInfo | tuple[None, None, None]


class StartResponse(Protocol):
    """The callable that a server passes to the application, to receive the status and the header fields.

    It returns the ``write(body_data)`` callable. PEP 3333, "The start_response() Callable".
    """

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: _OptExcInfo | None = ..., /
    ) -> Callable[[bytes], object]: ...


WSGIEnvironment: TypeAlias = dict[str, Any]
"""The environ: a ``dict``, not any other mapping. PEP 3333, "environ Variables"."""

WSGIApplication: TypeAlias = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]
"""Handles a request, and returns the blocks of the body. PEP 3333, "The Application/Framework Side"."""


class InputStream(Protocol):
    """``environ["wsgi.input"]``: the request's body. PEP 3333, "Input and Error Streams"."""

    def read(self, size: int = ..., /) -> bytes:
        """Read up to ``size`` bytes; without a size, read to the end of the body."""
        ...

    def readline(self, size: int = ..., /) -> bytes:
        """Read a line with its line end, or at most ``size`` bytes of it."""
        ...

    def readlines(self, hint: int = ..., /) -> list[bytes]:
        """Read all lines. The hint, in bytes, says when to stop; it may be ignored."""
        ...

    def __iter__(self) -> Iterator[bytes]: ...


class ErrorStream(Protocol):
    """``environ["wsgi.errors"]``: the stream for error messages. PEP 3333, "Input and Error Streams"."""

    def flush(self) -> object:
        """Send all buffered text on."""

    def write(self, s: str, /) -> object:
        """Write text."""

    def writelines(self, seq: list[str], /) -> object:
        """Write several texts, one after the other."""


class _Readable(Protocol):
    """The file that a FileWrapper reads. Its ``close()``, if it has one, is called at the end."""

    def read(self, size: int = ..., /) -> bytes: ...


class FileWrapper(Protocol):
    """``environ["wsgi.file_wrapper"]``: turns an open file into a response body, block by block.

    PEP 3333, "Optional Platform-Specific File Handling".
    """

    def __call__(self, file: _Readable, block_size: int = ..., /) -> Iterable[bytes]: ...
