"""The service's messages about itself and about failures, by the logging module; they never break a request."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

_log = logging.getLogger("fastwsgi")


def report(level: int, message: str, *args: Any, exc_info: bool = False) -> None:
    """Log a message, and the exception being handled if exc_info says so.

    A record that can't be written is lost. Two things can raise here: logging, which prints its own failures to a
    standard error that may be closed; and the methods of an application's exception object.
    """
    with contextlib.suppress(BaseException):
        _log.log(level, message, *args, exc_info=exc_info)
