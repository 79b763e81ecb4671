"""Every way in which fastwsgi deliberately differs from the standard library's wsgiref.

One place: a shared test that wsgiref fails carries ``@pytest.mark.differs(NAME)`` with a name from
here. "Newest CPython" means that the newest standard library agrees and older ones don't.
"""

DIFFERENCES: dict[str, str] = {
    "control-characters": "newest CPython: control characters in names, values, parameters and status raise",
    "checks-under-O": "header and status checks don't depend on python -O",
    "file-wrapper-getitem": "FileWrapper.__getitem__ stays, with its DeprecationWarning, on every Python",
    "status-check-is-an-error": "newest CPython: a malformed status raises AssertionError, also under -O",
    "validate-lazy-messages": "validate formats a message only when a check fails: a bad repr() is harmless",
    "validate-half-built-iterator": "IteratorWrapper around a non-iterable: no AttributeError from __del__",
}
