"""``fastwsgi.serve()``: collect the options from keywords and the environment, then serve in one process or several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastwsgi.validate import validator

from .options import environment, from_keywords
from .run import run
from .workers import run_workers

if TYPE_CHECKING:
    from fastwsgi.types import WSGIApplication


def serve(app: WSGIApplication, **keywords: Any) -> None:
    """See fastwsgi.serve(). A keyword that is None is ignored."""
    given = {name: value for name, value in keywords.items() if value is not None}
    options = from_keywords(**{**environment(), **given})
    if options.reload:
        raise ValueError("reload works on the command line only, which can restart itself: python -m fastwsgi --reload")
    application = validator(app) if options.validate else app
    if options.workers > 1:
        run_workers(lambda: application, options)
    else:
        run(application, options)
