"""What a service says of itself and of what fails: by logging, which never costs a request its answer."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

_log = logging.getLogger("fastwsgi")


def report(level: int, message: str, *args: Any, exc_info: bool = False) -> None:
    """Log a message, and the exception being handled if exc_info says so.

    A record that can't be written is lost. logging itself prints such a failure to standard error, and where that is
    closed, raises; and an application's exception may raise anything when it's looked at.
    """
    with contextlib.suppress(BaseException):
        _log.log(level, message, *args, exc_info=exc_info)
