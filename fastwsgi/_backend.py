"""Choose between the twins, the compiled and the pure implementation of the same names; others import from here.

``FASTWSGI_PURE=1`` selects the pure twin. Without it, only a missing extension leads to the pure twin. An extension
that exists and can't be loaded raises an exception.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

_compiled = False
if TYPE_CHECKING or os.environ.get("FASTWSGI_PURE", "") not in ("", "0") or sys.implementation.name != "cpython":
    pass
else:
    try:
        from ._speedups import (
            FileWrapper,
            Headers,
            Request,
            build_environ,
            check_fields,
            check_status,
            current_date,
            find_head_end,
            format_date_time,
            format_fields,
            format_preamble,
            is_hop_by_hop,
            is_plain,
            parse_head,
            parse_request_line,
        )

        _compiled = True
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}._speedups":
            raise

if TYPE_CHECKING or not _compiled:
    from ._fallback import (
        FileWrapper,
        Headers,
        Request,
        build_environ,
        check_fields,
        check_status,
        current_date,
        find_head_end,
        format_date_time,
        format_fields,
        format_preamble,
        is_hop_by_hop,
        is_plain,
        parse_head,
        parse_request_line,
    )

implementation: str = "compiled" if _compiled else "pure"
"""Which twin runs: ``"compiled"`` or ``"pure"``."""

accelerator: Any = sys.modules[f"{__package__}._speedups"] if _compiled else None
"""The compiled shortcuts without a twin (general code has the same results), or None if the pure twin runs."""


def load_pure() -> None:
    """Load the pure twin now. The compiled twin loads it at the first unusual case, which may be too late."""
    from . import _fallback  # noqa: F401  # pyright: ignore[reportUnusedImport]


__all__ = [
    "FileWrapper",
    "Headers",
    "Request",
    "accelerator",
    "build_environ",
    "check_fields",
    "check_status",
    "current_date",
    "find_head_end",
    "format_date_time",
    "format_fields",
    "format_preamble",
    "implementation",
    "is_hop_by_hop",
    "is_plain",
    "load_pure",
    "parse_head",
    "parse_request_line",
]
