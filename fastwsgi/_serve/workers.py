"""Several processes: gunicorn's, with our worker class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .options import Options
from .run import announce, listen

if TYPE_CHECKING:
    from fastwsgi.types import WSGIApplication


class MissingExtraError(Exception):
    """What an option needs, isn't installed; the message says how to."""


def run_workers(load: Callable[[], WSGIApplication], options: Options) -> None:
    """Serve in ``options.workers`` processes under gunicorn, until it ends this one.

    load: called in each process for the application. Raises MissingExtraError, and OSError if a socket can't be opened.
    """
    try:
        from gunicorn.app.base import BaseApplication
    except ModuleNotFoundError as error:
        if error.name != "gunicorn":
            raise
        raise MissingExtraError("--workers needs gunicorn: pip install 'fastwsgi-toolkit[workers]'") from None

    # Ours, so that all kinds of addresses mean the same as with one process.
    listeners = listen(options)
    own = options

    class Application(BaseApplication):  # type: ignore[misc, unused-ignore]
        options = own

        def load_config(self) -> None:
            settings: dict[str, Any] = {
                "bind": [f"fd://{listener.sock.fileno()}" for listener in listeners],
                "worker_class": "fastwsgi.gunicorn.Worker",
                "workers": own.workers,
                "threads": own.threads,
                "graceful_timeout": int(own.graceful_timeout) + 1,
                "backlog": own.backlog,
                "loglevel": own.log_level,
            }
            if own.certfile is not None:
                settings.update(certfile=own.certfile, keyfile=own.keyfile, ca_certs=own.ca_certs)
                if own.ca_certs is not None:
                    settings["cert_reqs"] = 2  # ssl.CERT_REQUIRED
            for name, value in settings.items():
                self.cfg.set(name, value)

        def load(self) -> WSGIApplication:
            return load()

    announce(options, listeners)
    Application().run()
