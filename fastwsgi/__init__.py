"""fastwsgi: wsgiref made fit for production.

The same six modules under the same names (``util``, ``headers``, ``handlers``, ``simple_server``,
``validate``, ``types``), their hot paths compiled. Change the import, or call ``install()`` and leave
the imports as they are. ``serve()`` is the production face of the same server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._backend import implementation
from ._install import install, uninstall
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack  # typing has it from 3.11; type checkers bring this one along

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
    """Serve an application until SIGINT or SIGTERM; then answer what was received, and return.

    app: PEP 3333 callable; bind: where to listen: "host:port", "[v6]:port", "unix:PATH" or "fd:N", or several of
    them (default: the sockets that systemd has passed, else 127.0.0.1:8000); threads: how many run the application at
    a time (default: 1); options: what ``python -m fastwsgi --help`` lists, by the same names. ``FASTWSGI_*``
    environment variables count for what isn't given here, or is None.

    Raises TypeError for an unknown option, ValueError for a value that can't be, OSError if a socket can't be opened.
    """
    from ._service.start import serve as _serve

    _serve(app, bind=bind, threads=threads, **options)
