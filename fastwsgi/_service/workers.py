"""Several processes, started and supervised by gunicorn with our worker class."""

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
    """An option needs a package that isn't installed; the message says how to install it."""


def try_loading(load: Callable[[], WSGIApplication]) -> int:
    """Load the application in a child process, as a test. Return the exit status of that process.

    Exceptions from load() surface in the child process; this function returns only in the parent. Raises LoadError if a
    signal ended the child.

    This happens before gunicorn starts: gunicorn would report a wrong name as a crash of each worker, among lines that
    report success. It happens in a child, because HUP must load new code, and because not every application survives a
    fork.
    """
    if not hasattr(os, "fork"):
        return 0  # gunicorn doesn't run here, either
    pid = os.fork()
    if not pid:
        load()
        os._exit(0)  # without clean-up of what it has started; its buffered output is dropped, the workers print it

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
    """Serve in ``options.workers`` processes under gunicorn, which ends this process afterwards.

    load: returns the application; called in each process. Raises MissingExtraError if gunicorn isn't installed, OSError
    if a socket can't be opened.
    """
    try:
        from gunicorn.app.base import BaseApplication
        from gunicorn.arbiter import Arbiter
    except ModuleNotFoundError as error:
        if error.name != "gunicorn":
            raise
        raise MissingExtraError("--workers needs gunicorn: pip install 'fastwsgi-toolkit[workers]'") from None

    # We open the sockets, so that addresses mean the same as with one process.
    check(options)
    listeners = listen(options)
    # gunicorn closes the descriptors that it receives.
    binds = [f"fd://{listener.sock.detach()}" for listener in listeners]
    own = options

    def close() -> None:
        for listener in listeners:
            listener.close()

    class OwnArbiter(Arbiter):  # type: ignore[misc, unused-ignore]
        log: Any

        def start(self) -> None:
            super().start()
            announce(options, listeners)  # from now on a signal stops it gracefully
            self.systemd = True  # otherwise gunicorn would remove unix sockets, which it doesn't own

        def stop(self, graceful: bool = True) -> None:
            close()  # while it still listens; Listener.close() explains why
            super().stop(graceful)

        def reexec(self) -> None:
            self.log.error("Ignoring USR2: it works only with gunicorn's own command line")

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
            if "control_socket_disable" in self.cfg.settings:  # new in 25.1; by default all services share one path
                settings["control_socket_disable"] = True
            for name, value in settings.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return load()

    try:
        OwnArbiter(Application()).run()
    finally:
        close()
