"""``python -m fastwsgi``: the command line of ``fastwsgi.serve()``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fastwsgi._backend import implementation
from fastwsgi._version import __version__
from fastwsgi.validate import validator

from . import options as _options
from .load import LoadError, load_application
from .reload import run_reloading
from .run import run
from .workers import MissingExtraError, run_workers, try_loading

if TYPE_CHECKING:
    from fastwsgi.types import WSGIApplication

_DEMO = "fastwsgi.simple_server:demo_app"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve as the arguments say until a signal ends the service. Return the exit status.

    arguments: without the program's name; None for the arguments of this process. A failure prints one line to
    standard error. The status is 2 for a wrong argument, 1 for any other failure.
    """
    parser = argparse.ArgumentParser(
        prog="fastwsgi",
        description="Serve a WSGI application.",
        epilog="Each flag also has an environment variable: FASTWSGI_MAX_BODY for --max-body. The flag overrides it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "application",
        metavar="APP",
        nargs="?",
        help="MODULE:APP, MODULE:FACTORY() or FILE.py:APP; APP defaults to application or app (default: demo)",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print all options, their values and their sources, then exit"
    )
    parser.add_argument("--version", action="version", version=f"fastwsgi {__version__} ({implementation})")
    _options.add_arguments(parser)
    given = list(sys.argv[1:] if arguments is None else arguments)
    namespace = parser.parse_args(given)
    try:
        options = _options.from_arguments(namespace, os.environ)
    except ValueError as error:
        parser.error(str(error))
    if options.workers > 1 and options.reload:
        parser.error("--reload can't be combined with --workers")
    if namespace.print_config:
        print(_options.describe(options, _options.origins(namespace, os.environ)))
        return 0
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")

    def load() -> WSGIApplication:
        application = load_application(namespace.application or _DEMO)
        return validator(application) if options.validate else application

    try:
        if options.reload:
            serve = partial(run_reloading, given)
        elif options.workers > 1:
            if status := try_loading(load):
                return status
            serve = partial(run_workers, load, options)
        else:
            serve = partial(run, load(), options)
    except LoadError as error:  # any other exception is the program's own, and its traceback is shown
        return _complain(error)
    try:
        serve()
    except (MissingExtraError, OSError, ValueError) as error:
        return _complain(error)
    return 0


def _complain(error: Exception) -> int:
    """Print what is wrong, and return the exit status for it."""
    print(f"fastwsgi: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
    return 2 if isinstance(error, ValueError) else 1
