"""Middleware that checks both sides of a WSGI call: the server's and the application's.

``validator()`` wraps an application. A violation of PEP 3333 raises ``AssertionError``. Questionable
behaviour gives a ``WSGIWarning``. The request and the response pass through unchanged.

The checks are separate functions and wrapper classes, and each can be used alone. None of them is an
``assert`` statement, so ``python -O`` doesn't disable them. An error message is formatted only after its
check has failed; formatting every message in advance would take nearly all of the time.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from .types import ErrorStream, InputStream, WSGIApplication

__all__ = ["validator"]

#: A header name must match this pattern. It is narrower than a token of RFC 9110 section 5.6.2.
header_re: re.Pattern[str] = re.compile(r"^[a-zA-Z][a-zA-Z0-9\-_]*$")
#: A header value must not contain any of these: PEP 3333 forbids control characters.
bad_header_value_re: re.Pattern[str] = re.compile(r"[\000-\037]")

_REQUIRED_KEYS = (
    "REQUEST_METHOD",
    "SERVER_NAME",
    "SERVER_PORT",
    "wsgi.version",
    "wsgi.input",
    "wsgi.errors",
    "wsgi.multithread",
    "wsgi.multiprocess",
    "wsgi.run_once",
)
_MISPLACED_KEYS = {"HTTP_CONTENT_TYPE": "CONTENT_TYPE", "HTTP_CONTENT_LENGTH": "CONTENT_LENGTH"}
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PATCH", "PUT", "DELETE", "TRACE"})
# Nearly every status matches this, and such a status is valid.
_is_usual_status = re.compile(r"[1-9][0-9]{2} ").match
# Responses without content: RFC 9110 sections 15.3.5 and 15.4.5.
_CODES_WITHOUT_CONTENT = (204, 304)


class WSGIWarning(Warning):
    """Warning about something that PEP 3333 allows, but that is probably a mistake."""


def assert_(cond: object, *args: object) -> None:
    """Raise ``AssertionError(*args)`` if *cond* is false, under ``python -O`` too."""
    if not cond:
        raise AssertionError(*args)


def check_string_type(value: object, title: str) -> str:
    """Return *value* if its type is exactly ``str``; otherwise raise an error that calls it *title*."""
    if type(value) is str:
        return value
    raise AssertionError(f"{title} must be of type str (got {value!r})")


def validator(application: WSGIApplication) -> WSGIApplication:
    """Return an application that behaves like *application* and checks every call.

    A violation raises ``AssertionError`` in the side that caused it, with one exception: a server that
    never calls ``close()`` on the response is noticed only when the response is garbage collected, and then
    a message on ``sys.stderr`` reports it. Source: PEP 3333, "Specification Details".
    """

    def checked_application(*args: Any, **kw: Any) -> IteratorWrapper:
        if len(args) != 2:
            raise AssertionError("Two arguments required")
        if kw:
            raise AssertionError("No keyword arguments allowed")
        environ, start_response = args
        check_environ(environ)

        # Shared with the IteratorWrapper, which requires an entry before the first block.
        calls: list[None] = []

        def checked_start_response(*args: Any, **kw: Any) -> WriteWrapper:
            if not 2 <= len(args) <= 3:
                raise AssertionError(f"Invalid number of arguments: {args}")
            if kw:
                raise AssertionError("No keyword arguments allowed")
            status, headers = args[:2]
            check_status(status)
            check_headers(headers)
            check_content_type(status, headers)
            check_exc_info(args[2] if len(args) == 3 else None)
            calls.append(None)
            return WriteWrapper(start_response(*args))

        # If this key is true, frameworks read without a size, which InputWrapper forbids.
        environ.pop("wsgi.input_terminated", None)
        environ["wsgi.input"] = InputWrapper(environ["wsgi.input"])
        environ["wsgi.errors"] = ErrorWrapper(environ["wsgi.errors"])
        body: Any = application(environ, checked_start_response)
        # Compare with False instead of testing the truth value: an empty list is a valid response.
        if body is None or not (body != False):  # noqa: E712
            raise AssertionError("The application must return an iterator, if only an empty list")
        check_iterator(body)
        return IteratorWrapper(body, calls)

    return checked_application


class InputWrapper:
    """The application's ``wsgi.input``, with only the methods of PEP 3333, "Input and Error Streams".

    *wsgi_input* is the server's stream. It must return ``bytes`` (or a list of them).
    """

    def __init__(self, wsgi_input: InputStream) -> None:
        self.input = wsgi_input

    def read(self, *args: Any) -> bytes:
        """Read up to a number of bytes. The size is required, because without it a server may block."""
        assert_(len(args) == 1)
        data = self.input.read(*args)
        assert_(type(data) is bytes)
        return data

    def readline(self, *args: Any) -> bytes:
        """Read one line; the optional argument is the maximum size in bytes."""
        assert_(len(args) <= 1)
        line = self.input.readline(*args)
        assert_(type(line) is bytes)
        return line

    def readlines(self, *args: Any) -> list[bytes]:
        """Read all lines; the optional argument is a hint, in bytes, that says when to stop."""
        assert_(len(args) <= 1)
        lines = self.input.readlines(*args)
        assert_(type(lines) is list)
        for line in lines:
            assert_(type(line) is bytes)
        return lines

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def close(self) -> NoReturn:
        """Raise ``AssertionError``: the stream belongs to the server."""
        raise AssertionError("input.close() must not be called")


class ErrorWrapper:
    """The application's ``wsgi.errors``, with only the methods of PEP 3333, "Input and Error Streams".

    *wsgi_errors* is the server's stream. The application must write ``str``.
    """

    def __init__(self, wsgi_errors: ErrorStream) -> None:
        self.errors = wsgi_errors

    def write(self, s: str) -> None:
        """Pass on *s*."""
        assert_(type(s) is str)
        self.errors.write(s)

    def flush(self) -> None:
        """Pass on the flush."""
        self.errors.flush()

    def writelines(self, seq: Iterable[str]) -> None:
        """Check and write each item of *seq* in a separate call."""
        for line in seq:
            self.write(line)

    def close(self) -> NoReturn:
        """Raise ``AssertionError``: the stream belongs to the server."""
        raise AssertionError("errors.close() must not be called")


class WriteWrapper:
    """The ``write()`` callable that ``start_response`` returns. It passes ``bytes`` on to *wsgi_writer*."""

    def __init__(self, wsgi_writer: Callable[[bytes], object]) -> None:
        self.writer = wsgi_writer

    def __call__(self, s: bytes) -> None:
        assert_(type(s) is bytes)
        self.writer(s)


class PartialIteratorWrapper:
    """An iterable around *wsgi_iterator* whose iterator is an ``IteratorWrapper``."""

    def __init__(self, wsgi_iterator: Iterable[bytes]) -> None:
        self.iterator = wsgi_iterator

    def __iter__(self) -> IteratorWrapper:
        return IteratorWrapper(self.iterator, None)


class IteratorWrapper:
    """The response body that a server receives: it yields only ``bytes``, and must be closed.

    *wsgi_iterator* is the application's result. *check_start_response* is an object that must be true when
    the first block arrives (the validator's list of calls), or ``None`` to skip this check.
    """

    # True until __init__ is done: without an iterator there is nothing to close.
    closed: bool = True
    iterator: Iterator[bytes]
    check_start_response: object

    def __init__(self, wsgi_iterator: Iterable[bytes], check_start_response: object) -> None:
        self.original_iterator = wsgi_iterator
        self.iterator = iter(wsgi_iterator)
        self.closed = False
        self.check_start_response = check_start_response

    def __iter__(self) -> IteratorWrapper:
        return self

    def __next__(self) -> bytes:
        if self.closed:
            raise AssertionError("Iterator read after closed")
        block = next(self.iterator)
        if type(block) is not bytes:
            raise AssertionError(f"Iterator yielded non-bytestring ({block!r})")
        if self.check_start_response is not None:
            if not self.check_start_response:
                raise AssertionError(
                    "The application returns and we started iterating over its body, "
                    "but start_response has not yet been called"
                )
            self.check_start_response = None
        return block

    def close(self) -> None:
        """Close the application's iterator, if it can be closed."""
        self.closed = True
        if hasattr(self.original_iterator, "close"):
            self.original_iterator.close()  # pyright: ignore[reportAttributeAccessIssue]

    def __del__(self) -> None:
        if not self.closed:
            # Write it explicitly, too: an exception from a destructor may go to a hook instead of this stream.
            sys.stderr.write("Iterator garbage collected without being closed")
            raise AssertionError("Iterator garbage collected without being closed")


def check_environ(environ: object) -> None:
    """Check the dict that a server passes to the application. PEP 3333, "environ Variables".

    Besides ``AssertionError`` and ``WSGIWarning``, it raises ``KeyError`` without ``wsgi.url_scheme``,
    ``SCRIPT_NAME`` or ``PATH_INFO``, ``TypeError`` for a key that isn't a string, and ``ValueError`` for a
    ``CONTENT_LENGTH`` that isn't a number.
    """
    if type(environ) is not dict:
        raise AssertionError(f"Environment is not of the right type: {type(environ)!r} (environment: {environ!r})")
    for key in _REQUIRED_KEYS:
        if key not in environ:
            raise AssertionError(f"Environment missing required key: {key!r}")
    for key, right_key in _MISPLACED_KEYS.items():
        if key in environ:
            raise AssertionError(f"Environment should not have the key: {key} (use {right_key} instead)")
    if "QUERY_STRING" not in environ:
        warnings.warn(
            "QUERY_STRING is not in the WSGI environment; the cgi module will use sys.argv when this "
            "variable is missing, so application errors are more likely",
            WSGIWarning,
            stacklevel=1,
        )

    # A key with a dot is an extension, and its value may have any type. The others are CGI variables.
    for key, value in environ.items():
        if "." not in key and type(value) is not str:
            raise AssertionError(f"Environmental variable {key} is not a string: {type(value)!r} (value: {value!r})")
    version = environ["wsgi.version"]
    if type(version) is not tuple:
        raise AssertionError(f"wsgi.version should be a tuple ({version!r})")
    scheme = environ["wsgi.url_scheme"]
    if scheme not in ("http", "https"):
        # Not an f-string: for a tuple % gives a different message, and wsgiref's is the same as this one.
        raise AssertionError("wsgi.url_scheme unknown: %r" % scheme)  # noqa: UP031
    check_input(environ["wsgi.input"])
    check_errors(environ["wsgi.errors"])

    method = environ["REQUEST_METHOD"]
    if method not in _KNOWN_METHODS:
        warnings.warn(f"Unknown REQUEST_METHOD: {method!r}", WSGIWarning, stacklevel=1)
    script_name = environ["SCRIPT_NAME"]
    if script_name and not script_name.startswith("/"):
        raise AssertionError(f"SCRIPT_NAME doesn't start with /: {script_name!r}")
    path_info = environ["PATH_INFO"]
    if path_info and not path_info.startswith("/"):
        raise AssertionError(f"PATH_INFO doesn't start with /: {path_info!r}")
    content_length = environ.get("CONTENT_LENGTH")
    if content_length and int(content_length) < 0:
        raise AssertionError(f"Invalid CONTENT_LENGTH: {content_length!r}")
    if script_name == "/":
        raise AssertionError("SCRIPT_NAME cannot be '/'; it should instead be '', and PATH_INFO should be '/'")


def check_input(wsgi_input: object) -> None:
    """Check that *wsgi_input* has the methods of PEP 3333, "Input and Error Streams"."""
    for attr in ("read", "readline", "readlines", "__iter__"):
        if not hasattr(wsgi_input, attr):
            raise AssertionError(f"wsgi.input ({wsgi_input!r}) doesn't have the attribute {attr}")


def check_errors(wsgi_errors: object) -> None:
    """Check that *wsgi_errors* has the methods of PEP 3333, "Input and Error Streams"."""
    for attr in ("flush", "write", "writelines"):
        if not hasattr(wsgi_errors, attr):
            raise AssertionError(f"wsgi.errors ({wsgi_errors!r}) doesn't have the attribute {attr}")


def check_status(status: object) -> None:
    """Check a status such as ``"200 OK"``: a three-digit code, one space, a reason.

    Raises ``IndexError`` if it is blank, ``ValueError`` if its code isn't a number, ``AssertionError``
    for any other bad code. Warns if the separator isn't one space. PEP 3333, "The start_response() Callable".
    """
    text = check_string_type(status, "Status")
    if _is_usual_status(text):
        return
    code_text = text.split(None, 1)[0]
    if len(code_text) != 3:
        raise AssertionError(f"Status codes must be three characters: {code_text!r}")
    code = int(code_text)
    if code < 100:
        raise AssertionError(f"Status code is invalid: {code!r}")
    if text[3:4] != " ":
        warnings.warn(
            f"The status string ({text!r}) should be a three-digit integer followed by a single space "
            "and a status explanation",
            WSGIWarning,
            stacklevel=1,
        )


def check_headers(headers: object) -> None:
    """Check the header fields given to ``start_response``: a list of pairs (name, value), all ``str``.

    Names must match ``header_re``, must not end in ``-`` or ``_`` and must not be ``Status``. Values must not
    match ``bad_header_value_re``. PEP 3333, "The start_response() Callable".
    """
    if type(headers) is not list:
        raise AssertionError(f"Headers ({headers!r}) must be of type list: {type(headers)!r}")
    for item in headers:
        if type(item) is not tuple:
            raise AssertionError(f"Individual headers ({item!r}) must be of type tuple: {type(item)!r}")
        if len(item) != 2:
            raise AssertionError
        name, value = item
        # A name that header_re accepts has no colon, and no line feed except possibly at its end.
        if (
            type(name) is not str
            or type(value) is not str
            or not header_re.search(name)
            or name[-1] in "-_\n"
            or name.lower() == "status"
        ):
            _refuse_header(name, value)
        if bad := bad_header_value_re.search(value):
            raise AssertionError(f"Bad header value: {value!r} (bad char: {bad[0]!r})")


def _refuse_header(name: object, value: object) -> NoReturn:
    """Raise an error with the first reason why this name or this type of value is refused."""
    name = check_string_type(name, "Header name")
    value = check_string_type(value, "Header value")
    if name.lower() == "status":
        raise AssertionError(
            "The Status header cannot be used; it conflicts with CGI script, and HTTP status is not "
            f"given through headers (value: {value!r})."
        )
    if "\n" in name or ":" in name:
        raise AssertionError(f"Header names may not contain ':' or '\\n': {name!r}")
    if not header_re.search(name):
        raise AssertionError(f"Bad header name: {name!r}")
    raise AssertionError(f"Names may not end in '-' or '_': {name!r}")


def check_content_type(status: object, headers: Iterable[tuple[object, object]]) -> None:
    """Check that there is a ``Content-Type``, or that there is none if *status* means no content (204, 304).

    Both arguments as for ``start_response``. PEP 3333, "The start_response() Callable".
    """
    code = int(check_string_type(status, "Status").split(None, 1)[0])
    has_content = code not in _CODES_WITHOUT_CONTENT
    for name, _value in headers:
        if check_string_type(name, "Header name").lower() == "content-type":
            if has_content:
                return
            raise AssertionError(f"Content-Type header found in a {code} response, which must not return content.")
    if has_content:
        # Not an f-string: for a tuple % gives a different message, and wsgiref's is the same as this one.
        raise AssertionError("No Content-Type header found in headers (%s)" % headers)  # noqa: UP031


def check_exc_info(exc_info: object) -> None:
    """Check that *exc_info* is ``None`` or a tuple. PEP 3333, "Error Handling"."""
    if exc_info is not None and type(exc_info) is not tuple:
        raise AssertionError(f"exc_info ({exc_info!r}) is not a tuple: {type(exc_info)!r}")


def check_iterator(iterator: object) -> None:
    """Check that a response isn't a single string, which would be sent character by character."""
    if isinstance(iterator, (str, bytes)):
        raise AssertionError(
            "You should not return a string as your application iterator, instead return a single-item "
            "list containing a bytestring."
        )
