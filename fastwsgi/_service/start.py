"""``fastwsgi.serve()``: its options from keywords and the environment, then one process or several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastwsgi.validate import validator

from .options import environment, from_keywords
from .run import run
from .workers import run_workers

if TYPE_CHECKING:
    from fastwsgi.types import WSGIApplication


def serve(app: WSGIApplication, **keywords: Any) -> None:
    """See fastwsgi.serve(). keywords: None for what isn't given."""
    given = {name: value for name, value in keywords.items() if value is not None}
    options = from_keywords(**{**environment(), **given})
    if options.reload:
        raise ValueError("reload is for the command line, which can start a program again: python -m fastwsgi --reload")
    application = validator(app) if options.validate else app
    if options.workers > 1:
        run_workers(lambda: application, options)
    else:
        run(application, options)
