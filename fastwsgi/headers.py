"""Response headers: a mapping interface to WSGI's list of header tuples."""

from __future__ import annotations

import re

from ._backend import Headers

__all__ = ["Headers", "tspecials"]

# A MIME parameter's value with one of these characters needs quotes (RFC 2045 section 5.1). Characters that can't be in
# a header field here are left out.
tspecials: re.Pattern[str] = re.compile(r'[ \(\)<>@,;:\\"/\[\]\?=]')
