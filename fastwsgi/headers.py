"""Response headers: a mapping interface to WSGI's list of header tuples."""

from ._backend import Headers
from ._http.grammar import TSPECIALS as tspecials  # noqa: N811 - the name wsgiref has

__all__ = ["Headers", "tspecials"]
