"""Several processes: gunicorn's, with our worker class."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .load import LoadError
from .options import Options
from .run import announce, check, listen

if TYPE_CHECKING:
    from fastwsgi.types import WSGIApplication


class MissingExtraError(Exception):
    """What an option needs, isn't installed; the message says how to."""


def try_loading(load: Callable[[], WSGIApplication]) -> int:
    """Load the application in a process of its own, which ends with that; its exit status.

    Returns in this process only: what load() raises, is raised in the other. Raises LoadError if a signal ended that.

    Before gunicorn starts, because it would show a wrong name as an accident, once for each worker, between lines that
    say that all is well. Not in this process, because HUP is for new code, and not each application survives a fork.
    """
    if not hasattr(os, "fork"):
        return 0  # nor is there gunicorn
    pid = os.fork()
    if not pid:
        load()
        os._exit(0)  # whatever it has begun; and what it has printed, the workers print, too

    def pass_on(number: int, frame: Any) -> None:
        os.kill(pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status < 0:
        raise LoadError(f"the application was not loaded: {signal.strsignal(-status)}")
    return status


def run_workers(load: Callable[[], WSGIApplication], options: Options) -> None:
    """Serve in ``options.workers`` processes under gunicorn, until it ends this one.

    load: called in each process for the application. Raises MissingExtraError, and OSError if a socket can't be opened.
    """
    try:
        from gunicorn.app.base import BaseApplication
        from gunicorn.arbiter import Arbiter
    except ModuleNotFoundError as error:
        if error.name != "gunicorn":
            raise
        raise MissingExtraError("--workers needs gunicorn: pip install 'fastwsgi-toolkit[workers]'") from None

    # Ours, so that all kinds of addresses mean the same as with one process.
    check(options)
    listeners = listen(options)
    # gunicorn closes the descriptors that it is given.
    binds = [f"fd://{listener.sock.detach()}" for listener in listeners]
    own = options

    def close() -> None:
        for listener in listeners:
            listener.close()

    class OwnArbiter(Arbiter):  # type: ignore[misc, unused-ignore]
        log: Any

        def start(self) -> None:
            super().start()
            announce(options, listeners)  # from now on a signal ends it in an orderly way
            self.systemd = True  # or it would remove unix sockets, which are ours to remove, or another program's

        def stop(self, graceful: bool = True) -> None:
            close()  # while it listens, for the reason that Listener.close() has
            super().stop(graceful)

        def reexec(self) -> None:
            self.log.error("USR2 is for gunicorn's own command line, and ignored")

    class Application(BaseApplication):  # type: ignore[misc, unused-ignore]
        options = own

        def load_config(self) -> None:
            settings: dict[str, Any] = {
                "bind": binds,
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
            if "control_socket_disable" in self.cfg.settings:  # from 25.1 on, and all services would share one path
                settings["control_socket_disable"] = True
            for name, value in settings.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return load()

    try:
        OwnArbiter(Application()).run()
    finally:
        close()
