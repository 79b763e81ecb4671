"""Make the WSGI environ of a request, with the keys that simple_server and serve() share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastwsgi._backend import build_environ

if TYPE_CHECKING:
    from fastwsgi._backend import Request
    from fastwsgi.types import WSGIEnvironment

_SEQUENCES = (tuple, list)


def split_address(address: Any) -> tuple[str, str]:
    """The address and port of a socket's peer as an environ has them; "" for a missing one, as on a unix socket."""
    if not isinstance(address, _SEQUENCES) or not address:
        return "", ""
    return str(address[0]), str(address[1]) if len(address) > 1 else ""


def request_environ(
    base: WSGIEnvironment, request: Request, software: str, content_type: str | None = None
) -> WSGIEnvironment:
    """Build the request's part of an environ, on a copy of base.

    base: the keys that all requests to a listening socket share; software: the value of SERVER_SOFTWARE; content_type:
    CONTENT_TYPE for a request without one, as in wsgiref, or None. The keys set are those of ``build_environ()``,
    REMOTE_ADDR, REMOTE_PORT, SERVER_SOFTWARE and HTTPS (PEP 3333, "environ Variables").
    """
    environ = build_environ(base, request)
    if request.is_tls:
        environ["HTTPS"] = "on"  # wsgi.url_scheme depends on it
    environ["SERVER_SOFTWARE"] = software
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = request.client
    if content_type is not None:
        environ.setdefault("CONTENT_TYPE", content_type)
    return environ


def add_body(environ: WSGIEnvironment, request: Request, size: int) -> None:
    """Set the keys that describe a received body: ``wsgi.input`` ends where it ends, and it isn't chunked any more.

    size: how many octets the body has.
    """
    environ["wsgi.input_terminated"] = True
    if request.length is None:
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ["CONTENT_LENGTH"] = str(size)
