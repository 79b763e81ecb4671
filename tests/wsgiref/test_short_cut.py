"""Compare the shortcut for handlers without overridden hooks with the hooks, on generated applications."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastwsgi.handlers import SimpleHandler
from generated import examples
from twins import Text

pytestmark = pytest.mark.compiled

DATE = ("Date", "Mon, 05 Jun 2006 18:49:54 GMT")


class Named(SimpleHandler):
    server_software = "Test/1"


class ByHooks(Named):
    """The same handler with one hook overridden, so that all hooks are called."""

    def get_scheme(self) -> str:
        return super().get_scheme()


class ClosingMixin:
    """Records the state in a subclass's close(), as the server's handler does for the log."""

    seen: Any = None

    def close(self) -> None:
        fields = None if self.headers is None else sorted(self.headers.items(), key=repr)
        self.seen = (self.status, self.bytes_sent, self.headers_sent, fields, type(self.result))
        super().close()  # type: ignore[misc]


class Closing(ClosingMixin, Named):
    pass


class ClosingByHooks(ClosingMixin, ByHooks):
    pass


class Body:
    """An iterable with a close() that may fail, and optionally a length."""

    def __init__(self, blocks: Iterator[Any], log: list[str], fails: bool) -> None:
        self.blocks, self.log, self.fails = blocks, log, fails

    def __iter__(self) -> Iterator[Any]:
        return self.blocks

    def close(self) -> None:
        self.log.append("closed")
        if self.fails:
            raise LookupError("on closing")


class SizedBody(Body):
    def __len__(self) -> int:
        return 1


class WrongSizedBody(Body):
    def __len__(self) -> int:
        raise NotImplementedError


STATUSES = st.sampled_from(
    ["200 OK"] * 6 + ["404 Not Found", "200 caf\xe9", "200 \u20ac", "20", "200OK", b"200 OK", "200 \n"]
)
FIELDS = st.lists(
    st.sampled_from(
        [("A", "1")] * 4
        + [DATE, ("content-length", "3"), ("SERVER", "x"), ("B", "caf\xe9"), ("C", "\u20ac"), ("D", "a\tb")]
        + [("E", "\r\n"), ("Connection", "x"), ("F", 1), (b"G", "x"), ["H", "x"], ("I",), (Text("J"), "x")]
    ),
    max_size=4,
)
BLOCKS = st.sampled_from([b"a", b"bc", b"", b"d" * 3000] * 3 + ["text", None, bytearray(b"x")])
ACTIONS = st.one_of(
    st.tuples(st.just("start"), STATUSES, FIELDS),
    st.tuples(st.just("restart"), STATUSES, FIELDS),
    st.tuples(st.just("write"), BLOCKS),
    st.tuples(st.just("append"), FIELDS),
    st.tuples(st.just("raise")),
)
USUAL = st.lists(st.tuples(st.just("start"), st.just("200 OK"), st.just([("A", "1")])), min_size=1, max_size=1)
BEFORE = USUAL | USUAL | st.lists(ACTIONS, max_size=4)
STEPS = st.lists(st.tuples(st.just("block"), BLOCKS) | st.tuples(st.just("block"), BLOCKS) | ACTIONS, max_size=5)
KINDS = st.sampled_from(["list", "list", "tuple", "iterator", "generator", "body", "sized", "wrong", "none"])


class Script:
    """An application that follows a script, with new objects in each run."""

    def __init__(self, before: Any, steps: Any, kind: str, fails: bool) -> None:
        self.before, self.steps, self.kind, self.fails = before, steps, kind, fails
        self.log: list[str] = []
        self.start: Any = None
        self.fields: list[Any] = []
        self.send: Any = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.start = start_response
        if self.kind == "generator":
            return self.generate(self.before + self.steps)
        for action in self.before:
            self.do(*action)
        blocks = [step[1] for step in self.steps if step[0] == "block"]
        if self.kind == "list":
            return blocks
        if self.kind == "tuple":
            return tuple(blocks)
        if self.kind == "iterator":
            return iter(blocks)
        if self.kind == "none":
            return None
        classes = {"body": Body, "sized": SizedBody, "wrong": WrongSizedBody}
        return classes[self.kind](self.generate(self.steps), self.log, self.fails)

    def generate(self, steps: Any) -> Iterator[Any]:
        for step in steps:
            if step[0] == "block":
                yield step[1]
            else:
                self.do(*step)

    def do(self, action: str, *args: Any) -> None:
        if action in ("start", "restart"):
            self.fields = list(args[1])
            if action == "start":
                self.send = self.start(args[0], self.fields)
            else:
                try:
                    raise ValueError("restarted")
                except ValueError:
                    self.send = self.start(args[0], self.fields, sys.exc_info())
        elif action == "write" and self.send is not None:
            self.send(args[0])
        elif action == "append":
            self.fields.extend(args[0])
        elif action == "raise":
            raise LookupError("on purpose")


def observe(handler_class: type[SimpleHandler], *script: Any) -> dict[str, Any]:
    """Run a script; return everything that can be observed."""
    application = Script(*script)
    stdout, stderr = io.BytesIO(), io.StringIO()
    handler = handler_class(io.BytesIO(), stdout, stderr, {"SERVER_PROTOCOL": "HTTP/1.1"})
    raised = None
    try:
        handler.run(application)
    except Exception as error:
        raised = type(error), str(error)
    lines = [line for line in stderr.getvalue().splitlines() if line[:1] not in (" ", "")]
    return {
        "sent": stdout.getvalue(),
        "logged": [line for line in lines if not line.startswith("Traceback")],
        "raised": raised,
        "closed": application.log,
        "status": handler.status,
        # Sorted: an application may change its list after the head was sent, before we add a length to it.
        "headers": None if handler.headers is None else sorted(handler.headers.items(), key=repr),
        "headers_sent": handler.headers_sent,
        "bytes_sent": handler.bytes_sent,
        "environ is kept": handler.environ is not None,
        "result": type(handler.result),
        "seen by close": getattr(handler, "seen", None),
    }


@pytest.mark.parametrize("classes", [(Named, ByHooks), (Closing, ClosingByHooks)], ids=["stock close", "own close"])
@examples(1500, deadline=None)
@given(BEFORE, STEPS, KINDS, st.booleans())
@example([("start", "200 OK", [])], [("block", b"a")], "sized", True)
@example([("start", "200 OK", []), ("write", b"x")], [("block", b"a"), ("raise",)], "body", False)
@example([("start", "200 OK", [])], [("block", b"a"), ("restart", "500 Oh", [])], "body", False)
def test_both_ways_look_the_same(
    classes: tuple[type[SimpleHandler], type[SimpleHandler]], before: Any, steps: Any, kind: str, fails: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: 0.0)
        short, long = (observe(cls, before, steps, kind, fails) for cls in classes)
    assert short == long
