"""Malformed request lines and field sections, each with the status of its answer."""

from __future__ import annotations

#: By name: the request line, and the status of the answer.
BAD_LINES = {
    # RFC 9112 section 3: three parts, one space between them
    "empty": (b"\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\n", 400),
    "tab": (b"GET\t/ HTTP/1.1\r\n", 400),
    "space in target": (b"GET /a b HTTP/1.1\r\n", 400),
    "space at end": (b"GET / HTTP/1.1 \r\n", 400),
    "space at start": (b" GET / HTTP/1.1\r\n", 400),
    "bare CR": (b"GET /\rHTTP/1.1\r\n", 400),
    "CR at end": (b"GET / HTTP/1.1\r\r\n", 400),
    # section 3.1 and RFC 9110 section 9.1: a method is a token
    "method": (b"G(T / HTTP/1.1\r\n", 400),
    "no method": (b" / HTTP/1.1\r\n", 400),
    "CONNECT": (b"CONNECT h:443 HTTP/1.1\r\n", 501),
    # section 3.2: four forms of target
    "relative target": (b"GET a HTTP/1.1\r\n", 400),
    "asterisk for GET": (b"GET * HTTP/1.1\r\n", 400),
    "authority for GET": (b"GET h:80 HTTP/1.1\r\n", 400),
    "absolute without host": (b"GET http:/// HTTP/1.1\r\n", 400),
    "absolute with userinfo": (b"GET http://a@h/ HTTP/1.1\r\n", 400),
    "absolute with bad port": (b"GET http://h:a/ HTTP/1.1\r\n", 400),
    "other scheme": (b"GET ftp://h/ HTTP/1.1\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\n", 400),
    "control character": (b"GET /\x01 HTTP/1.1\r\n", 400),
    "NUL": (b"GET /\x00 HTTP/1.1\r\n", 400),
    "DEL": (b"GET /\x7f HTTP/1.1\r\n", 400),
    # section 2.3: HTTP-version
    "lower case": (b"GET / http/1.1\r\n", 400),
    "no minor": (b"GET / HTTP/1\r\n", 400),
    "two digits": (b"GET / HTTP/1.10\r\n", 400),
    "no version": (b"GET / \r\n", 400),
    "sign": (b"GET / HTTP/+1.1\r\n", 400),
    "HTTP/2": (b"GET / HTTP/2.0\r\n", 505),
    "HTTP/0": (b"GET / HTTP/0.9\r\n", 505),
    "too long": (b"GET /%s HTTP/1.1\r\n" % (b"a" * 8190), 414),
    "too long and bad": (b"GET %s\r\n" % (b"a " * 8190), 414),
}

#: By name: the octets after a good request line. The status of the answer is 400.
BAD_FIELDS = {
    # RFC 9112 section 5 and RFC 9110 section 5.1: a name is a token, and the colon follows immediately
    "no colon": b"Host\r\n\r\n",
    "no name": b": a\r\n\r\n",
    "space before colon": b"Host : a\r\n\r\n",
    "tab before colon": b"Host\t: a\r\n\r\n",
    "space in name": b"Ho st: a\r\n\r\n",
    "non-ASCII name": b"H\xe9st: a\r\n\r\n",
    "control in name": b"Ho\x01st: a\r\n\r\n",
    "delimiter in name": b"Host(: a\r\n\r\n",
    # section 5.2: obs-fold; section 2.2: white space before the first field
    "folded": b"Host: a\r\n b\r\n\r\n",
    "folded by a tab": b"Host: a\r\n\tb\r\n\r\n",
    "indented": b" Host: a\r\n\r\n",
    # RFC 9110 section 5.5: no control characters in a value
    "NUL": b"Host: a\x00b\r\n\r\n",
    "bare CR": b"Host: a\rb\r\n\r\n",
    "CR before the end": b"Host: a\r\r\n\r\n",
    "vertical tab": b"Host: \x0ba\r\n\r\n",
    "escape": b"Host: a\x1b[0m\r\n\r\n",
    "DEL in a long value": b"Host: " + b"a" * 20 + b"\x7f" + b"a" * 20 + b"\r\n\r\n",
    # section 2.1: the field section ends with an empty line, and the head with that
    "no empty line": b"Host: a\r\n",
    "cut in a line": b"Host: a",
    "cut in the empty line": b"Host: a\r\n\r",
    "data behind": b"Host: a\r\n\r\nx",
    "a second empty line": b"Host: a\r\n\r\n\r\n",
}
