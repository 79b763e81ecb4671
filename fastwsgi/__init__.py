"""fastwsgi: a production-grade replacement for wsgiref.

It has the same six modules with the same names: ``util``, ``headers``, ``handlers``, ``simple_server``, ``validate``
and ``types``. Their hot paths are compiled. Change the import, or call ``install()`` and leave the imports as they are.
``serve()`` runs the same server in production.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._backend import implementation
from ._install import install, uninstall
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack  # in typing from 3.11 on; type checkers provide this one

    from ._service.keywords import Keywords
    from .types import WSGIApplication

__all__ = ["__version__", "implementation", "install", "serve", "uninstall"]


def serve(
    app: WSGIApplication,
    bind: str | Sequence[str] | None = None,
    *,
    threads: int | None = None,
    **options: Unpack[Keywords],
) -> None:
    """Serve an application until SIGINT or SIGTERM; then answer the requests already received, and return.

    app: a WSGI application (PEP 3333). bind: where to listen: "host:port", "[v6]:port", "unix:PATH" or "fd:N", or a
    sequence of them (default: the sockets passed by systemd, else 127.0.0.1:8000). threads: how many threads run the
    application (default: 1). options: those of ``python -m fastwsgi --help``, under the same names. An option that is
    missing here, or is None, is taken from its ``FASTWSGI_*`` environment variable.

    Raises TypeError for an unknown option, ValueError for an invalid value, OSError if a socket can't be opened.
    """
    from ._service.start import serve as _serve

    _serve(app, bind=bind, threads=threads, **options)
