"""The vocabulary of WSGI as static types: what servers, middleware and applications hand each other.

All of them are descriptions (aliases and protocols): an object fits by its shape, nothing needs to
inherit from them. Source: PEP 3333, "Specification Details".
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

# What sys.exc_info() returns: inside an except clause, and outside of one.
_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType]
_OptExcInfo: TypeAlias = _ExcInfo | tuple[None, None, None]


class StartResponse(Protocol):
    """What a server passes to the application so that it can state its status and header fields.

    It returns the ``write(body_data)`` callable. PEP 3333, "The start_response() Callable".
    """

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: _OptExcInfo | None = ..., /
    ) -> Callable[[bytes], object]: ...


WSGIEnvironment: TypeAlias = dict[str, Any]
"""The environ: a dict, and no other mapping. PEP 3333, "environ Variables"."""

WSGIApplication: TypeAlias = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]
"""What is called for each request, and returns the blocks of the body. PEP 3333, "The Application/Framework Side"."""


class InputStream(Protocol):
    """``environ["wsgi.input"]``: the request's body. PEP 3333, "Input and Error Streams"."""

    def read(self, size: int = ..., /) -> bytes:
        """Read so many bytes, or to the body's end."""
        ...

    def readline(self, size: int = ..., /) -> bytes:
        """Read a line with its end, or so many bytes of it."""
        ...

    def readlines(self, hint: int = ..., /) -> list[bytes]:
        """Read all lines; the hint, in bytes, of when to stop may be ignored."""
        ...

    def __iter__(self) -> Iterator[bytes]: ...


class ErrorStream(Protocol):
    """``environ["wsgi.errors"]``: where text about errors goes. PEP 3333, "Input and Error Streams"."""

    def flush(self) -> object:
        """Don't keep what was written in a buffer."""

    def write(self, s: str, /) -> object:
        """Write text."""

    def writelines(self, seq: list[str], /) -> object:
        """Write several texts, one after the other."""


class _Readable(Protocol):
    """The file a FileWrapper reads; if it has a ``close()`` too, that is called in the end."""

    def read(self, size: int = ..., /) -> bytes: ...


class FileWrapper(Protocol):
    """``environ["wsgi.file_wrapper"]``: turns an open file into a response body, block by block.

    PEP 3333, "Optional Platform-Specific File Handling".
    """

    def __call__(self, file: _Readable, block_size: int = ..., /) -> Iterable[bytes]: ...
