"""Helpers for the WSGI environ: rebuild the request's URI, move along its path, make up an environ for tests.

Every function takes the environ of PEP 3333: a dict of CGI-style and ``wsgi.*`` keys. A required key
that is missing raises ``KeyError``.
"""

from __future__ import annotations

import posixpath
import re
from io import BytesIO, StringIO
from urllib.parse import quote

from ._backend import FileWrapper, is_hop_by_hop
from .types import WSGIEnvironment

__all__ = [
    "FileWrapper",
    "application_uri",
    "guess_scheme",
    "is_hop_by_hop",
    "request_uri",
    "setup_testing_defaults",
    "shift_path_info",
]

# Texts that quote() would not change: this test is several times cheaper than the call.
_is_quoted_script_name = re.compile(r"[A-Za-z0-9_.~/-]*").fullmatch
_is_quoted_path_info = re.compile(r"[A-Za-z0-9_.~/;=,-]*").fullmatch

_DEFAULT_PORTS = {"http": "80", "https": "443"}


def guess_scheme(environ: WSGIEnvironment) -> str:
    """Return ``"https"`` if the CGI variable ``HTTPS`` is ``yes``, ``on`` or ``1``, else ``"http"``.

    For gateways (CGI, FastCGI) that must fill in ``wsgi.url_scheme``. Source: PEP 3333, "URL
    Reconstruction" and "environ Variables".
    """
    return "https" if environ.get("HTTPS") in ("yes", "on", "1") else "http"


def application_uri(environ: WSGIEnvironment) -> str:
    """Return the URI of the application itself, without ``PATH_INFO`` and query.

    Raises ``KeyError`` without ``wsgi.url_scheme``, and, if there is no ``HTTP_HOST``, without
    ``SERVER_NAME`` or ``SERVER_PORT``. Raises ``UnicodeEncodeError`` if ``SCRIPT_NAME`` contains characters
    outside of latin-1. Source: PEP 3333, "URL Reconstruction".
    """
    scheme = environ["wsgi.url_scheme"]
    authority = environ.get("HTTP_HOST")
    if not authority:
        authority = environ["SERVER_NAME"]
        port = environ["SERVER_PORT"]
        if port != ("443" if scheme == "https" else "80"):
            authority += ":" + port
    script_name = environ.get("SCRIPT_NAME") or "/"
    if not _is_quoted_script_name(script_name):
        script_name = quote(script_name, encoding="latin1")
    return str(scheme + "://" + authority + script_name)


def request_uri(environ: WSGIEnvironment, include_query: bool = True) -> str:
    """Return the URI that the client requested, with ``?QUERY_STRING`` unless *include_query* is false.

    Raises the same exceptions as ``application_uri()``. Source: PEP 3333, "URL Reconstruction".
    """
    uri = application_uri(environ)
    path_info: str = environ.get("PATH_INFO", "")
    if not _is_quoted_path_info(path_info):
        path_info = quote(path_info, safe="/;=,", encoding="latin1")
    # Without a SCRIPT_NAME, the application's URI already ends with the slash that PATH_INFO begins with.
    uri += path_info if environ.get("SCRIPT_NAME") else path_info[1:]
    if include_query:
        query = environ.get("QUERY_STRING")
        if query:
            uri += "?" + query
    return uri


def shift_path_info(environ: WSGIEnvironment) -> str | None:
    """Move the first segment of ``PATH_INFO`` to the end of ``SCRIPT_NAME``, in place; return it.

    Returns ``None`` when ``PATH_INFO`` has no segment left. A ``PATH_INFO`` of ``"/"`` gives ``""`` and
    a ``SCRIPT_NAME`` that ends in a slash, so that a traversal can tell ``/x/`` from ``/x``. Elsewhere
    empty and ``.`` segments are dropped, and ``..`` goes up one level. A ``PATH_INFO`` without any slash
    raises ``IndexError`` and leaves the environ unchanged.
    """
    path_info: str = environ.get("PATH_INFO", "")
    if not path_info:
        return None
    if "//" in path_info or "/./" in path_info:
        head, *middle, tail = path_info.split("/")
        parts = [head, *[part for part in middle if part and part != "."], tail]
    else:
        parts = path_info.split("/", 2)
    name = parts[1]
    del parts[1]
    script_name: str = environ.get("SCRIPT_NAME", "") + "/" + name
    # Most script names are already normalised, and normpath() would take most of this function's time.
    if not name or script_name[0] != "/" or "//" in script_name or "/." in script_name:
        script_name = posixpath.normpath(script_name).removesuffix("/")
        if not name and not script_name.endswith("/"):
            script_name += "/"
    environ["SCRIPT_NAME"] = script_name
    environ["PATH_INFO"] = "/".join(parts)
    # A lone "." at the end of the path isn't a segment: nothing was shifted.
    return None if name == "." else name


def setup_testing_defaults(environ: WSGIEnvironment) -> None:
    """Add missing keys to *environ*, in place, so that it describes a complete request. For tests only.

    The request is ``GET /`` on ``127.0.0.1``, HTTP/1.0, with an empty body. Source of the keys: PEP 3333,
    "environ Variables".
    """
    setdefault = environ.setdefault
    server_name = setdefault("SERVER_NAME", "127.0.0.1")
    setdefault("SERVER_PROTOCOL", "HTTP/1.0")
    setdefault("HTTP_HOST", server_name)
    setdefault("REQUEST_METHOD", "GET")
    # If either of the two is set, it already says completely where the request points to.
    if "SCRIPT_NAME" not in environ and "PATH_INFO" not in environ:
        environ["SCRIPT_NAME"] = ""
        environ["PATH_INFO"] = "/"
    setdefault("wsgi.version", (1, 0))
    setdefault("wsgi.run_once", 0)
    setdefault("wsgi.multithread", 0)
    setdefault("wsgi.multiprocess", 0)
    setdefault("wsgi.input", BytesIO())
    setdefault("wsgi.errors", StringIO())
    scheme = setdefault("wsgi.url_scheme", guess_scheme(environ))
    if scheme in _DEFAULT_PORTS:
        setdefault("SERVER_PORT", _DEFAULT_PORTS[scheme])
