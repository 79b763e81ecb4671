"""The only chooser between the twins: everyone else imports their names from here.

``FASTWSGI_PURE=1`` asks for the pure twin. Only an extension that isn't there makes us fall back to
it; one that is there and can't be loaded raises.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

_compiled = False
if TYPE_CHECKING or os.environ.get("FASTWSGI_PURE", "") not in ("", "0") or sys.implementation.name != "cpython":
    pass
else:
    try:
        from ._speedups import (
            Channel,
            FastLane,
            FileWrapper,
            Headers,
            RequestHead,
            SharedEpoll,
            build_environ,
            check_fields,
            check_status,
            current_date,
            find_head_end,
            format_date_time,
            format_fields,
            format_preamble,
            hand_out,
            is_hop_by_hop,
            load_pure,
            parse_head,
            parse_request_line,
            run_stock,
        )

        _compiled = True
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}._speedups":
            raise

if TYPE_CHECKING or not _compiled:
    from ._fallback import (
        Channel,
        FastLane,
        FileWrapper,
        Headers,
        RequestHead,
        SharedEpoll,
        build_environ,
        check_fields,
        check_status,
        current_date,
        find_head_end,
        format_date_time,
        format_fields,
        format_preamble,
        hand_out,
        is_hop_by_hop,
        load_pure,
        parse_head,
        parse_request_line,
        run_stock,
    )

implementation: str = "compiled" if _compiled else "pure"
"""Which twin runs: ``"compiled"`` or ``"pure"``."""

__all__ = [
    "Channel",
    "FastLane",
    "FileWrapper",
    "Headers",
    "RequestHead",
    "SharedEpoll",
    "build_environ",
    "check_fields",
    "check_status",
    "current_date",
    "find_head_end",
    "format_date_time",
    "format_fields",
    "format_preamble",
    "hand_out",
    "implementation",
    "is_hop_by_hop",
    "load_pure",
    "parse_head",
    "parse_request_line",
    "run_stock",
]
