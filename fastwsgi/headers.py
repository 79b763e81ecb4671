"""Response header tools: the mapping over WSGI's list of header tuples."""

from ._backend import Headers
from ._http.grammar import TSPECIALS as tspecials  # noqa: N811 - the name wsgiref has

__all__ = ["Headers", "tspecials"]
