"""Every check also works under ``python -O``, with the same messages."""

from __future__ import annotations

import json

import pytest

from programs import run_python

PROGRAM = """
import io, json
from fastwsgi.handlers import BaseHandler, SimpleHandler
from fastwsgi.headers import Headers

def refusal(call, *args):
    try:
        call(*args)
    except Exception as error:
        return [type(error).__name__, str(error)]

def start(status, headers):
    return refusal(BaseHandler().start_response, status, headers)

def written(data):
    def application(environ, start_response):
        start_response("200 OK", [])(data)
        return []
    handler = SimpleHandler(None, io.BytesIO(), io.StringIO(), {"SERVER_PROTOCOL": "HTTP/1.1"})
    handler.run(application)
    return handler.stderr.getvalue().splitlines()[-1]

headers = Headers([("A", "1")])
print(json.dumps([
    refusal(Headers, ()),
    refusal(Headers, [("A", 1)]),
    refusal(Headers, [(b"A", "1")]),
    refusal(Headers, [("A\\n", "1")]),
    refusal(Headers, [("A", "1\\r\\nB: 2")]),
    refusal(headers.__setitem__, "A", "1\\x00"),
    refusal(headers.setdefault, "B\\x7f", "1"),
    refusal(headers.add_header, "A", "1\\n"),
    refusal(lambda: headers.add_header("A", "1", b="\\r")),
    start("200", []),
    start("2x0 OK", []),
    start("200OK", []),
    start("200 OK\\r\\nA: b", []),
    start(b"200 OK", []),
    start("200 OK", ()),
    start("200 OK", [("Connection", "close")]),
    start("200 OK", [("A", "b\\n")]),
    written("text"),
    written(None),
]))
"""


@pytest.mark.parametrize("flags", [["-O"], ["-OO"]], ids=" ".join)
def test_every_check_is_made(flags: list[str]) -> None:
    def run(*options: str) -> list[object]:
        return list(json.loads(run_python(*options, "-c", PROGRAM, check=True).stdout))

    refusals = run(*flags)
    assert refusals == run()
    assert all(refusals), refusals
