"""The list of all intended differences between fastwsgi and the standard library's wsgiref.

A shared test that wsgiref fails is marked ``@pytest.mark.differs(NAME)`` with a name from this list. "Newest CPython"
means that the newest standard library behaves like fastwsgi, and older ones don't.
"""

DIFFERENCES: dict[str, str] = {
    "control-characters": "newest CPython: control characters in names, values, parameters and status raise",
    "checks-under-O": "header and status checks don't depend on python -O",
    "file-wrapper-getitem": "FileWrapper.__getitem__ stays, with its DeprecationWarning, on every Python",
    "status-check-is-an-error": "newest CPython: a malformed status raises AssertionError, also under -O",
    "validate-lazy-messages": "validate formats a message only when a check fails: a bad repr() is harmless",
    "validate-half-built-iterator": "IteratorWrapper around a non-iterable: no AttributeError from __del__",
    "extra-environ-keys": "REMOTE_PORT and REQUEST_URI are in the environ",
    "environ-fields": "names with underscores are dropped, cookies joined by semicolons, no field hidden by a key",
    "absolute-form": "a target in absolute-form sets the path and HTTP_HOST (RFC 9112 section 3.2.2)",
    "lazy-headers": "the handler's headers are made at the first access",
    "client-name": "an overridden address_string() sets REMOTE_HOST on every Python",
    "true-multithread": "wsgi.multithread is true under a ThreadingMixIn",
    "ipv6-from-host": "a host with colons is IPv6",
    "no-dns": "no DNS query at bind",
    "no-client-address": "a client without an address (a unix socket) is served",
    "one-write": "head and body of an answer of one block are sent in one piece",
    "validate-input-terminated": "the validator hides wsgi.input_terminated, which invites reads that it refuses",
    "body-framing": "a contradictory Content-Length, Transfer-Encoding or Host is refused (RFC 9112 section 6)",
    "bounded-input": "wsgi.input ends where the body ends, and a truncated body raises",
    "chunked-bodies": "chunked bodies are decoded before the application is called",
    "unknown-expectation": "an expectation other than 100-continue gets 417",
    "strict-requests": "a malformed, truncated or too large head is refused with a status line",
    "empty-line-first": "an empty line before the request line is skipped (RFC 9112 section 2.2)",
    "timeout-is-logged": "a handler's timeout is a log line, not a traceback",
}
