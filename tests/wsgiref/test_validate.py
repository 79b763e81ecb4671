"""fastwsgi.validate: each rule by its exact message, then ours against wsgiref's on generated input."""

from __future__ import annotations

import sys
import warnings
import wsgiref.validate as reference
from collections.abc import Callable, Iterator
from io import BytesIO, StringIO
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fastwsgi.validate as ours
from programs import run_python

Environ = dict[str, Any]
REQUIRED_KEYS = (
    "REQUEST_METHOD",
    "SERVER_NAME",
    "SERVER_PORT",
    "wsgi.version",
    "wsgi.input",
    "wsgi.errors",
    "wsgi.multithread",
    "wsgi.multiprocess",
    "wsgi.run_once",
)


def good_environ(**changes: object) -> Environ:
    """A valid environ with *changes*; a value of ``...`` removes its key."""
    environ: Environ = {
        "REQUEST_METHOD": "GET",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "CONTENT_LENGTH": "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(b"one\ntwo\n"),
        "wsgi.errors": StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    environ.update(changes)
    return {key: value for key, value in environ.items() if value is not ...}


def good_start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
    return lambda data: None


def good_app(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"one", b"two"]


def fails(call: Callable[[], object], message: str | None, category: type[Exception] = AssertionError) -> None:
    """Assert that *call* raises exactly *category* with *message* (``None``: without arguments)."""
    with pytest.raises(category) as caught:
        call()
    assert type(caught.value) is category
    if message is None:
        assert caught.value.args == ()
    else:
        assert str(caught.value) == message


# --- check_environ


@pytest.mark.shared
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"PATH_INFO": "", "SCRIPT_NAME": "/app"},
        {"PATH_INFO": "", "SCRIPT_NAME": ""},
        {"CONTENT_LENGTH": ...},
        {"CONTENT_LENGTH": "0"},
        {"CONTENT_LENGTH": "12"},
        {"wsgi.url_scheme": "https"},
        {"my.extension": 5, "wsgi.file_wrapper": object},
        *(
            {"REQUEST_METHOD": method}
            for method in ("GET", "HEAD", "POST", "OPTIONS", "PATCH", "PUT", "DELETE", "TRACE")
        ),
    ],
)
def test_environ_that_is_fine(wsgi: SimpleNamespace, changes: dict[str, object]) -> None:
    environ = good_environ(**changes)
    before = dict(environ)
    assert wsgi.validate.check_environ(environ) is None
    assert environ == before


@pytest.mark.shared
@pytest.mark.parametrize("key", REQUIRED_KEYS)
def test_environ_without_a_required_key(wsgi: SimpleNamespace, key: str) -> None:
    environ = good_environ(**{key: ...})
    fails(lambda: wsgi.validate.check_environ(environ), f"Environment missing required key: {key!r}")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"HTTP_CONTENT_TYPE": "text/plain"},
            "Environment should not have the key: HTTP_CONTENT_TYPE (use CONTENT_TYPE instead)",
        ),
        (
            {"HTTP_CONTENT_LENGTH": "1"},
            "Environment should not have the key: HTTP_CONTENT_LENGTH (use CONTENT_LENGTH instead)",
        ),
        ({"HTTP_X": 1}, "Environmental variable HTTP_X is not a string: <class 'int'> (value: 1)"),
        ({"HTTP_X": b"1"}, "Environmental variable HTTP_X is not a string: <class 'bytes'> (value: b'1')"),
        ({"wsgi.version": [1, 0]}, "wsgi.version should be a tuple ([1, 0])"),
        ({"wsgi.url_scheme": "ftp"}, "wsgi.url_scheme unknown: 'ftp'"),
        ({"wsgi.url_scheme": None}, "wsgi.url_scheme unknown: None"),
        ({"wsgi.url_scheme": ("http",)}, "wsgi.url_scheme unknown: 'http'"),
        ({"wsgi.input": 5}, "wsgi.input (5) doesn't have the attribute read"),
        ({"wsgi.errors": 5}, "wsgi.errors (5) doesn't have the attribute flush"),
        ({"SCRIPT_NAME": "app"}, "SCRIPT_NAME doesn't start with /: 'app'"),
        ({"PATH_INFO": "x"}, "PATH_INFO doesn't start with /: 'x'"),
        ({"CONTENT_LENGTH": "-1"}, "Invalid CONTENT_LENGTH: '-1'"),
        (
            {"SCRIPT_NAME": "/"},
            "SCRIPT_NAME cannot be '/'; it should instead be '', and PATH_INFO should be '/'",
        ),
    ],
)
def test_environ_that_breaks_a_rule(wsgi: SimpleNamespace, changes: dict[str, object], message: str) -> None:
    environ = good_environ(**changes)
    fails(lambda: wsgi.validate.check_environ(environ), message)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("changes", "category", "message"),
    [
        ({"wsgi.url_scheme": ...}, KeyError, "'wsgi.url_scheme'"),
        ({"SCRIPT_NAME": ...}, KeyError, "'SCRIPT_NAME'"),
        ({"PATH_INFO": ...}, KeyError, "'PATH_INFO'"),
        ({"CONTENT_LENGTH": "x"}, ValueError, "invalid literal for int() with base 10: 'x'"),
    ],
)
def test_environ_with_other_errors(
    wsgi: SimpleNamespace, changes: dict[str, object], category: type[Exception], message: str
) -> None:
    environ = good_environ(**changes)
    fails(lambda: wsgi.validate.check_environ(environ), message, category)


@pytest.mark.shared
def test_environ_with_a_key_that_is_no_string(wsgi: SimpleNamespace) -> None:
    with pytest.raises(TypeError):
        wsgi.validate.check_environ(good_environ() | {5: "five"})


@pytest.mark.shared
def test_environ_of_another_type(wsgi: SimpleNamespace) -> None:
    class Environment(dict[str, object]):
        def __repr__(self) -> str:
            return "<environment>"

    fails(
        lambda: wsgi.validate.check_environ(Environment(good_environ())),
        f"Environment is not of the right type: {Environment!r} (environment: <environment>)",
    )
    fails(
        lambda: wsgi.validate.check_environ(None),
        "Environment is not of the right type: <class 'NoneType'> (environment: None)",
    )


@pytest.mark.shared
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"QUERY_STRING": ...},
            "QUERY_STRING is not in the WSGI environment; the cgi module will use sys.argv when this "
            "variable is missing, so application errors are more likely",
        ),
        ({"REQUEST_METHOD": "BREW"}, "Unknown REQUEST_METHOD: 'BREW'"),
        ({"REQUEST_METHOD": "get"}, "Unknown REQUEST_METHOD: 'get'"),
    ],
)
def test_environ_that_is_questionable(wsgi: SimpleNamespace, changes: dict[str, object], text: str) -> None:
    with pytest.warns(wsgi.validate.WSGIWarning) as caught:
        wsgi.validate.check_environ(good_environ(**changes))
    assert [str(warning.message) for warning in caught] == [text]
    assert caught[0].category is wsgi.validate.WSGIWarning
    assert caught[0].filename == wsgi.validate.__file__


@pytest.mark.shared
@pytest.mark.parametrize("missing", ["read", "readline", "readlines", "__iter__"])
def test_input_without_a_method(wsgi: SimpleNamespace, missing: str) -> None:
    methods = {name: None for name in ("read", "readline", "readlines", "__iter__") if name != missing}
    stream = type("Stream", (), {**methods, "__repr__": lambda self: "<stream>"})()
    fails(
        lambda: wsgi.validate.check_input(stream),
        f"wsgi.input (<stream>) doesn't have the attribute {missing}",
    )


@pytest.mark.shared
@pytest.mark.parametrize("missing", ["flush", "write", "writelines"])
def test_errors_without_a_method(wsgi: SimpleNamespace, missing: str) -> None:
    methods = {name: None for name in ("flush", "write", "writelines") if name != missing}
    stream = type("Stream", (), {**methods, "__repr__": lambda self: "<stream>"})()
    fails(
        lambda: wsgi.validate.check_errors(stream),
        f"wsgi.errors (<stream>) doesn't have the attribute {missing}",
    )


# --- the arguments of start_response


@pytest.mark.shared
@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "299 ", "999 x  y"])
def test_status_that_is_fine(wsgi: SimpleNamespace, status: str) -> None:
    assert wsgi.validate.check_status(status) is None


@pytest.mark.shared
@pytest.mark.parametrize(
    ("status", "category", "message"),
    [
        (b"200 OK", AssertionError, "Status must be of type str (got b'200 OK')"),
        (200, AssertionError, "Status must be of type str (got 200)"),
        ("20 OK", AssertionError, "Status codes must be three characters: '20'"),
        ("2000 OK", AssertionError, "Status codes must be three characters: '2000'"),
        ("099 OK", AssertionError, "Status code is invalid: 99"),
        ("-10 OK", AssertionError, "Status code is invalid: -10"),
        ("abc OK", ValueError, "invalid literal for int() with base 10: 'abc'"),
        ("", IndexError, "list index out of range"),
    ],
)
def test_status_that_breaks_a_rule(
    wsgi: SimpleNamespace, status: object, category: type[Exception], message: str
) -> None:
    fails(lambda: wsgi.validate.check_status(status), message, category)


@pytest.mark.shared
@pytest.mark.parametrize("status", ["200", "200\tOK", " 200 OK", "200\u00a0OK"])
def test_status_that_is_questionable(wsgi: SimpleNamespace, status: str) -> None:
    with pytest.warns(wsgi.validate.WSGIWarning) as caught:
        wsgi.validate.check_status(status)
    assert [str(warning.message) for warning in caught] == [
        f"The status string ({status!r}) should be a three-digit integer followed by a single space and a "
        "status explanation"
    ]
    assert caught[0].filename == wsgi.validate.__file__


@pytest.mark.shared
@pytest.mark.parametrize(
    "headers",
    [[], [("a", "")], [("Content-Type", "text/plain"), ("x_y-Z9", "caf\xe9 \x7f")], [("Status9", "x")]],
)
def test_headers_that_are_fine(wsgi: SimpleNamespace, headers: list[tuple[str, str]]) -> None:
    assert wsgi.validate.check_headers(headers) is None


@pytest.mark.shared
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ((), "Headers (()) must be of type list: <class 'tuple'>"),
        (None, "Headers (None) must be of type list: <class 'NoneType'>"),
        ([["a", "b"]], "Individual headers (['a', 'b']) must be of type tuple: <class 'list'>"),
        ([("a",)], None),
        ([("a", "b", "c")], None),
        ([(b"a", "b")], "Header name must be of type str (got b'a')"),
        ([("a", b"b")], "Header value must be of type str (got b'b')"),
        ([("a:", b"b")], "Header value must be of type str (got b'b')"),
        (
            [("sTatus", "200 OK")],
            "The Status header cannot be used; it conflicts with CGI script, and HTTP status is not given "
            "through headers (value: '200 OK').",
        ),
        ([("a\nb", "x")], "Header names may not contain ':' or '\\n': 'a\\nb'"),
        ([("a\n", "x")], "Header names may not contain ':' or '\\n': 'a\\n'"),
        ([("status\n", "x")], "Header names may not contain ':' or '\\n': 'status\\n'"),
        ([("a:b", "x")], "Header names may not contain ':' or '\\n': 'a:b'"),
        ([("", "x")], "Bad header name: ''"),
        ([("1a", "x")], "Bad header name: '1a'"),
        ([("a b", "x")], "Bad header name: 'a b'"),
        ([("a\r", "x")], "Bad header name: 'a\\r'"),
        ([("caf\xe9", "x")], "Bad header name: 'caf\xe9'"),
        ([("a-", "x")], "Names may not end in '-' or '_': 'a-'"),
        ([("a_", "x")], "Names may not end in '-' or '_': 'a_'"),
        ([("a", "x\ny\0")], "Bad header value: 'x\\ny\\x00' (bad char: '\\n')"),
        ([("a", "\t")], "Bad header value: '\\t' (bad char: '\\t')"),
        ([("a", "b"), ("a-", "x")], "Names may not end in '-' or '_': 'a-'"),
    ],
)
def test_headers_that_break_a_rule(wsgi: SimpleNamespace, headers: object, message: str | None) -> None:
    fails(lambda: wsgi.validate.check_headers(headers), message)


@pytest.mark.shared
def test_patched_patterns_are_used(wsgi: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.setattr(wsgi.validate, "header_re", re.compile(r"^[0-9]+$"))
    monkeypatch.setattr(wsgi.validate, "bad_header_value_re", re.compile(r"!"))
    wsgi.validate.check_headers([("123", "\t")])
    fails(lambda: wsgi.validate.check_headers([("abc", "")]), "Bad header name: 'abc'")
    fails(lambda: wsgi.validate.check_headers([("1", "!")]), "Bad header value: '!' (bad char: '!')")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK", [("CONTENT-type", "text/plain")]),
        ("200 OK", [("x", "y"), ("Content-Type", "text/plain")]),
        ("204 No Content", []),
        ("304 Not Modified", [("ETag", "x")]),
    ],
)
def test_content_type_that_is_fine(wsgi: SimpleNamespace, status: str, headers: list[tuple[str, str]]) -> None:
    assert wsgi.validate.check_content_type(status, headers) is None


@pytest.mark.shared
@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        ("200 OK", [], "No Content-Type header found in headers ([])"),
        ("200 OK", [("a", "b")], "No Content-Type header found in headers ([('a', 'b')])"),
        ("200 OK", ((b"a", "b"),), "Header name must be of type str (got b'a')"),
        (b"200 OK", [], "Status must be of type str (got b'200 OK')"),
        (
            "204 No Content",
            [("Content-Type", "text/plain")],
            "Content-Type header found in a 204 response, which must not return content.",
        ),
        (
            "304 Not Modified",
            [("a", "b"), ("content-type", "")],
            "Content-Type header found in a 304 response, which must not return content.",
        ),
    ],
)
def test_content_type_that_breaks_a_rule(wsgi: SimpleNamespace, status: object, headers: object, message: str) -> None:
    fails(lambda: wsgi.validate.check_content_type(status, headers), message)


@pytest.mark.shared
def test_exc_info(wsgi: SimpleNamespace) -> None:
    for exc_info in (None, (), (None, None, None), (ValueError, ValueError("x"), None)):
        assert wsgi.validate.check_exc_info(exc_info) is None
    fails(lambda: wsgi.validate.check_exc_info([1]), "exc_info ([1]) is not a tuple: <class 'list'>")
    fails(lambda: wsgi.validate.check_exc_info(False), "exc_info (False) is not a tuple: <class 'bool'>")


@pytest.mark.shared
@pytest.mark.parametrize("iterator", ["text", b"bytes", "", b""])
def test_string_as_iterator(wsgi: SimpleNamespace, iterator: object) -> None:
    fails(
        lambda: wsgi.validate.check_iterator(iterator),
        "You should not return a string as your application iterator, instead return a single-item list "
        "containing a bytestring.",
    )


@pytest.mark.shared
def test_anything_else_as_iterator(wsgi: SimpleNamespace) -> None:
    iterators: tuple[object, ...] = ([], (), iter([b""]), bytearray(b"x"), 5)
    for iterator in iterators:
        assert wsgi.validate.check_iterator(iterator) is None


@pytest.mark.shared
def test_the_small_helpers(wsgi: SimpleNamespace) -> None:
    require = wsgi.validate.assert_
    assert require(1, "unused") is None
    fails(lambda: require(0), None)
    fails(lambda: require([], "text"), "text")
    assert wsgi.validate.check_string_type("x", "Title") == "x"
    fails(lambda: wsgi.validate.check_string_type(b"x", "Title"), "Title must be of type str (got b'x')")
    text = type("Text", (str,), {})("x")
    fails(lambda: wsgi.validate.check_string_type(text, "Title"), "Title must be of type str (got 'x')")
    assert issubclass(wsgi.validate.WSGIWarning, Warning)


@pytest.mark.shared
def test_rules_hold_under_python_optimised(wsgi: SimpleNamespace) -> None:
    program = (
        f"import {wsgi.package}.validate as v\n"
        "assert False, 'not optimised'\n"
        "for check, value in ((v.check_environ, []), (v.check_status, 5), (v.check_headers, ()),\n"
        "                     (v.check_exc_info, 5), (v.check_iterator, ''), (v.assert_, 0)):\n"
        "    try:\n"
        "        check(value)\n"
        "    except AssertionError:\n"
        "        print(check.__name__)\n"
    )
    assert run_python("-O", "-c", program, check=True).stdout.split() == [
        "check_environ",
        "check_status",
        "check_headers",
        "check_exc_info",
        "check_iterator",
        "assert_",
    ]


# --- the wrappers


class Stream:
    """A wsgi.input and wsgi.errors that returns given values and records its calls."""

    def __init__(self, answer: object = b"") -> None:
        self.answer = answer
        self.calls: list[tuple[object, ...]] = []

    def read(self, *args: object) -> object:
        self.calls.append(("read", *args))
        return self.answer

    def readline(self, *args: object) -> object:
        self.calls.append(("readline", *args))
        return self.answer

    def readlines(self, *args: object) -> object:
        self.calls.append(("readlines", *args))
        return self.answer

    def write(self, *args: object) -> object:
        self.calls.append(("write", *args))
        return self.answer

    def flush(self) -> object:
        self.calls.append(("flush",))
        return self.answer


@pytest.mark.shared
def test_input_wrapper_passes_on(wsgi: SimpleNamespace) -> None:
    stream = BytesIO(b"one\ntwo\nthree\nfour\nfive\n")
    wrapper = wsgi.validate.InputWrapper(stream)
    assert wrapper.input is stream
    assert wrapper.read(2) == b"on"
    assert wrapper.readline() == b"e\n"
    assert wrapper.readline(2) == b"tw"
    assert wrapper.readlines(1) == [b"o\n"]
    assert list(wrapper) == [b"three\n", b"four\n", b"five\n"]
    assert wrapper.readlines() == []


@pytest.mark.shared
@pytest.mark.parametrize(
    ("method", "args"), [("read", ()), ("read", (1, 2)), ("readline", (1, 2)), ("readlines", (1, 2))]
)
def test_input_wrapper_counts_arguments(wsgi: SimpleNamespace, method: str, args: tuple[int, ...]) -> None:
    stream = Stream()
    fails(lambda: getattr(wsgi.validate.InputWrapper(stream), method)(*args), None)
    assert stream.calls == []


@pytest.mark.shared
@pytest.mark.parametrize(
    ("method", "args", "answer"),
    [
        ("read", (1,), "text"),
        ("read", (1,), None),
        ("read", (1,), bytearray(b"x")),
        ("readline", (), "text"),
        ("readlines", (), (b"x",)),
        ("readlines", (), [b"x", "text"]),
        ("__iter__", (), "text"),
    ],
)
def test_input_wrapper_wants_bytes(wsgi: SimpleNamespace, method: str, args: tuple[int, ...], answer: object) -> None:
    wrapper = wsgi.validate.InputWrapper(Stream(answer))
    if method == "__iter__":
        fails(lambda: next(iter(wrapper)), None)
    else:
        fails(lambda: getattr(wrapper, method)(*args), None)


@pytest.mark.shared
def test_input_wrapper_iterates_by_readline(wsgi: SimpleNamespace) -> None:
    class Lines(wsgi.validate.InputWrapper):  # type: ignore[misc, name-defined]
        def readline(self, *args: int) -> bytes:
            return super().readline(*args).upper()  # type: ignore[no-any-return]

    assert list(Lines(BytesIO(b"a\nb"))) == [b"A\n", b"B"]


@pytest.mark.shared
def test_streams_may_not_be_closed(wsgi: SimpleNamespace) -> None:
    fails(wsgi.validate.InputWrapper(Stream()).close, "input.close() must not be called")
    fails(wsgi.validate.ErrorWrapper(Stream()).close, "errors.close() must not be called")


@pytest.mark.shared
def test_wrappers_offer_nothing_else(wsgi: SimpleNamespace) -> None:
    assert not hasattr(wsgi.validate.InputWrapper(BytesIO()), "seek")
    assert not hasattr(wsgi.validate.ErrorWrapper(StringIO()), "getvalue")


@pytest.mark.shared
def test_error_wrapper(wsgi: SimpleNamespace) -> None:
    stream = Stream()
    wrapper = wsgi.validate.ErrorWrapper(stream)
    assert wrapper.errors is stream
    assert wrapper.write("a") is None
    assert wrapper.flush() is None
    assert wrapper.writelines(["b", "c"]) is None
    assert stream.calls == [("write", "a"), ("flush",), ("write", "b"), ("write", "c")]
    fails(lambda: wrapper.write(b"a"), None)
    fails(lambda: wrapper.writelines(["d", b"e", "f"]), None)
    assert stream.calls[4:] == [("write", "d")]


@pytest.mark.shared
def test_write_wrapper(wsgi: SimpleNamespace) -> None:
    written: list[bytes] = []
    wrapper = wsgi.validate.WriteWrapper(written.append)
    assert wrapper.writer == written.append
    assert wrapper(b"data") is None
    fails(lambda: wrapper("text"), None)
    fails(lambda: wrapper(bytearray(b"x")), None)
    assert written == [b"data"]


class Body:
    """An application's iterator that knows whether it was closed."""

    def __init__(self, *blocks: object) -> None:
        self.blocks = iter(blocks)
        self.closings = 0

    def __iter__(self) -> Iterator[object]:
        return self.blocks

    def close(self) -> None:
        self.closings += 1


@pytest.mark.shared
def test_iterator_wrapper(wsgi: SimpleNamespace) -> None:
    body = Body(b"a", b"b")
    wrapper = wsgi.validate.IteratorWrapper(body, None)
    assert wrapper.original_iterator is body
    assert wrapper.iterator is body.blocks
    assert wrapper.check_start_response is None
    assert iter(wrapper) is wrapper
    assert next(wrapper) == b"a"
    assert wrapper.closed is False
    wrapper.close()
    assert wrapper.closed is True
    assert body.closings == 1
    fails(lambda: next(wrapper), "Iterator read after closed")


@pytest.mark.shared
def test_iterator_wrapper_around_what_cannot_be_closed(wsgi: SimpleNamespace) -> None:
    wrapper = wsgi.validate.IteratorWrapper([b"a"], None)
    assert list(wrapper) == [b"a"]
    wrapper.close()
    assert wrapper.closed is True


@pytest.mark.shared
@pytest.mark.parametrize("block", ["text", None, 5, bytearray(b"x"), ("a", "b")])
def test_iterator_wrapper_wants_bytes(wsgi: SimpleNamespace, block: object) -> None:
    wrapper = wsgi.validate.IteratorWrapper([block], None)
    fails(lambda: next(wrapper), f"Iterator yielded non-bytestring ({block!r})")
    wrapper.close()


@pytest.mark.shared
def test_iterator_wrapper_wants_start_response_before_the_first_block(wsgi: SimpleNamespace) -> None:
    calls: list[None] = []
    wrapper = wsgi.validate.IteratorWrapper([b"a", b"b", b"c"], calls)
    fails(
        lambda: next(wrapper),
        "The application returns and we started iterating over its body, but start_response has not yet been called",
    )
    calls.append(None)
    assert next(wrapper) == b"b"
    calls.clear()  # checked only once
    assert next(wrapper) == b"c"
    wrapper.close()


@pytest.mark.shared
def test_iterator_wrapper_that_nobody_closed(wsgi: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    wrapper = wsgi.validate.IteratorWrapper([], None)
    # Call it directly, so that the test doesn't depend on the garbage collector and its handling of errors.
    fails(wrapper.__del__, "Iterator garbage collected without being closed")
    assert capsys.readouterr().err == "Iterator garbage collected without being closed"
    wrapper.close()
    wrapper.__del__()
    assert capsys.readouterr().err == ""


@pytest.mark.shared
@pytest.mark.differs("validate-half-built-iterator")
def test_iterator_wrapper_around_what_cannot_be_iterated(wsgi: SimpleNamespace) -> None:
    wrapper = wsgi.validate.IteratorWrapper.__new__(wsgi.validate.IteratorWrapper)
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        wrapper.__init__(5, None)
    wrapper.__del__()


@pytest.mark.shared
def test_partial_iterator_wrapper(wsgi: SimpleNamespace) -> None:
    body = Body(b"a")
    partial = wsgi.validate.PartialIteratorWrapper(body)
    assert partial.iterator is body
    wrapper = iter(partial)
    assert type(wrapper) is wsgi.validate.IteratorWrapper
    assert wrapper.check_start_response is None
    assert list(wrapper) == [b"a"]
    wrapper.close()
    assert body.closings == 1


# --- the validator


@pytest.mark.shared
def test_validated_call(wsgi: SimpleNamespace) -> None:
    seen: list[object] = []
    written: list[bytes] = []
    exc_info = (ValueError, ValueError("x"), None)
    body = Body(b"one", b"two")

    def start_response(*args: object) -> Callable[[bytes], None]:
        seen.append(args)
        return written.append

    def app(environ: Environ, start_response: Any) -> Body:
        seen.append((type(environ["wsgi.input"]), type(environ["wsgi.errors"])))
        start_response("500 Oops", [("Content-Type", "text/plain")], exc_info)(b"zero")
        return body

    environ = good_environ()
    stream, errors = environ["wsgi.input"], environ["wsgi.errors"]
    response = wsgi.validate.validator(app)(environ, start_response)
    assert list(response) == [b"one", b"two"]
    response.close()
    assert body.closings == 1
    assert written == [b"zero"]
    assert seen == [
        (wsgi.validate.InputWrapper, wsgi.validate.ErrorWrapper),
        ("500 Oops", [("Content-Type", "text/plain")], exc_info),
    ]
    # In place, as a server or middleware sees it that keeps the environ.
    assert environ["wsgi.input"].input is stream
    assert environ["wsgi.errors"].errors is errors


@pytest.mark.shared
def test_validator_lets_start_response_come_with_the_first_block(wsgi: SimpleNamespace) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("204 No Content", [])
        yield b""

    response = wsgi.validate.validator(app)(good_environ(), good_start_response)
    assert list(response) == [b""]
    response.close()


@pytest.mark.shared
def test_validator_without_start_response(wsgi: SimpleNamespace) -> None:
    response = wsgi.validate.validator(lambda environ, start_response: [b"x"])(good_environ(), good_start_response)
    fails(
        lambda: next(response),
        "The application returns and we started iterating over its body, but start_response has not yet been called",
    )
    response.close()


@pytest.mark.shared
@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "Two arguments required"),
        (({},), {"start_response": None}, "Two arguments required"),
        (({}, None, None), {}, "Two arguments required"),
        (({}, None), {"x": 1}, "No keyword arguments allowed"),
        (({}, None), {}, "Environment missing required key: 'REQUEST_METHOD'"),
    ],
)
def test_application_called_wrongly(
    wsgi: SimpleNamespace, args: tuple[object, ...], kwargs: dict[str, object], message: str
) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        raise ValueError("the application was called")

    fails(lambda: wsgi.validate.validator(app)(*args, **kwargs), message)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("200 OK",), {}, "Invalid number of arguments: ('200 OK',)"),
        (("200 OK",), {"headers": []}, "Invalid number of arguments: ('200 OK',)"),
        ((1, 2, 3, 4), {}, "Invalid number of arguments: (1, 2, 3, 4)"),
        (("200 OK", []), {"exc_info": None}, "No keyword arguments allowed"),
        ((200, ()), {}, "Status must be of type str (got 200)"),
        (("200 OK", ()), {}, "Headers (()) must be of type list: <class 'tuple'>"),
        (("200 OK", [], 5), {}, "No Content-Type header found in headers ([])"),
        (("204 No Content", [], 5), {}, "exc_info (5) is not a tuple: <class 'int'>"),
    ],
)
def test_start_response_called_wrongly(
    wsgi: SimpleNamespace, args: tuple[object, ...], kwargs: dict[str, object], message: str
) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response(*args, **kwargs)
        return []

    def never(*args: object) -> None:
        raise ValueError("the server's start_response was called")

    fails(lambda: wsgi.validate.validator(app)(good_environ(), never), message)


@pytest.mark.shared
@pytest.mark.parametrize("result", [None, False, 0, 0.0])
def test_application_that_returns_nothing(wsgi: SimpleNamespace, result: object) -> None:
    fails(
        lambda: wsgi.validate.validator(lambda environ, start_response: result)(good_environ(), good_start_response),
        "The application must return an iterator, if only an empty list",
    )


@pytest.mark.shared
def test_application_that_returns_a_string(wsgi: SimpleNamespace) -> None:
    with pytest.raises(AssertionError, match=r"^You should not return a string"):
        wsgi.validate.validator(lambda environ, start_response: b"x")(good_environ(), good_start_response)


@pytest.mark.shared
@pytest.mark.parametrize("result", [[], (), {}])
def test_application_that_returns_an_empty_container(wsgi: SimpleNamespace, result: object) -> None:
    response = wsgi.validate.validator(lambda environ, start_response: result)(good_environ(), good_start_response)
    assert list(response) == []
    response.close()


@pytest.mark.shared
@pytest.mark.differs("validate-lazy-messages")
def test_nothing_is_formatted_unless_a_rule_is_broken(wsgi: SimpleNamespace) -> None:
    class Unprintable(BytesIO):
        def __repr__(self) -> str:
            raise ValueError("formatted")

    environ = good_environ(**{"wsgi.input": Unprintable(), "my.extension": Unprintable()})
    response = wsgi.validate.validator(good_app)(environ, good_start_response)
    assert list(response) == [b"one", b"two"]
    response.close()
    fails(lambda: wsgi.validate.check_exc_info(Unprintable()), "formatted", ValueError)


# --- ours against wsgiref's


def outcome(call: Callable[[], object]) -> tuple[object, ...]:
    """The result, exception and warnings of a call, in a form that can be compared between the two modules."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: tuple[object, ...] = ("returned", call())
        except Exception as error:
            result = ("raised", type(error), str(error), error.args == ())
    return *result, [(warning.category.__name__, str(warning.message)) for warning in caught]


def same_outcome(function: str, *args: object) -> None:
    expected = outcome(lambda: getattr(reference, function)(*args))
    assert outcome(lambda: getattr(ours, function)(*args)) == expected


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.tuples(st.integers()),
    st.just(()),
    st.lists(st.text(max_size=2), max_size=2),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
    st.builds(type("Text", (str,), {}), st.text(max_size=5)),
)
names = st.one_of(
    st.from_regex(r"[a-zA-Z][a-zA-Z0-9_-]{0,6}", fullmatch=True),
    st.sampled_from(["Content-Type", "content-TYPE", "Status", "STATUS", "status\n", "a-", "b_", "", "9", "a:b"]),
    st.text(alphabet="aZ9-_: \n\r\xe9\u017f\u212a", max_size=5),
)
values = st.text(alphabet="a b\t\r\n\0\x1f\x7f\xe9\u2603", max_size=6)
fields = st.one_of(st.tuples(names, values), st.tuples(names | anything, values | anything), anything)
header_lists = st.one_of(st.lists(st.tuples(names, st.just("x")), max_size=4), st.lists(fields, max_size=3), anything)
statuses = st.one_of(
    st.sampled_from(["200 OK", "204 No Content", "304 Not Modified", "100 Continue", "200", "2000 x", "099 x"]),
    st.from_regex(r"[ \t]?[0-9+_-]{1,4}[ \t\xa0]?[a-z]{0,3}", fullmatch=True),
    st.text(alphabet="0129\u0662 \t\nxK", max_size=6),
    anything,
)


class Shape:
    """A stream with only the named methods."""

    def __init__(self, methods: frozenset[str]) -> None:
        vars(self).update(dict.fromkeys(methods))


methods = st.sampled_from(["read", "readline", "readlines", "__iter__", "flush", "write", "writelines"])
streams = st.one_of(st.sampled_from([BytesIO(), StringIO(), sys.stderr]), st.frozensets(methods).map(Shape), anything)
environ_changes = st.fixed_dictionaries(
    {},
    optional={
        "REQUEST_METHOD": st.sampled_from(["GET", "PUT", "BREW", "", ...]) | anything,
        "QUERY_STRING": st.sampled_from(["a=b", ...]),
        "SCRIPT_NAME": st.sampled_from(["", "/", "/a", "a", ...]) | anything,
        "PATH_INFO": st.sampled_from(["", "/", "/a", "a", ...]) | anything,
        "CONTENT_LENGTH": st.sampled_from(["", "0", "12", "-1", " 7 ", "1_0", "+5", "x", "\u0663", ...]) | anything,
        "HTTP_CONTENT_TYPE": st.just("x"),
        "HTTP_CONTENT_LENGTH": st.just("1"),
        "HTTP_X": anything,
        "x.y": anything,
        "wsgi.version": st.sampled_from([(1, 0), [1, 0], ...]),
        "wsgi.url_scheme": st.sampled_from(["http", "https", "HTTP", ("http",), (), ("a", "b"), {}, ...]),
        "wsgi.input": streams | st.just(...),
        "wsgi.errors": streams | st.just(...),
        "wsgi.run_once": st.just(...),
        "SERVER_NAME": st.just(...),
    },
)
odd_keys = st.dictionaries(
    st.one_of(st.integers(), st.binary(max_size=2), st.none(), st.sampled_from([("a",), (".",), ()])),
    st.text(max_size=2) | st.integers(),
    max_size=1,
)


@given(changes=environ_changes, more=odd_keys, odd_ones_first=st.booleans())
def test_check_environ_as_wsgiref(changes: dict[str, object], more: dict[Any, object], odd_ones_first: bool) -> None:
    environ = good_environ(**changes)
    same_outcome("check_environ", {**more, **environ} if odd_ones_first else {**environ, **more})


@given(value=anything)
def test_check_environ_of_anything_as_wsgiref(value: object) -> None:
    same_outcome("check_environ", value)


@given(stream=streams)
def test_check_streams_as_wsgiref(stream: object) -> None:
    same_outcome("check_input", stream)
    same_outcome("check_errors", stream)


@given(status=statuses)
def test_check_status_as_wsgiref(status: object) -> None:
    same_outcome("check_status", status)


@given(headers=header_lists)
@example(headers=[("a", "b"), ("_", "c")])
def test_check_headers_as_wsgiref(headers: object) -> None:
    same_outcome("check_headers", headers)


@given(status=statuses, headers=header_lists | st.lists(fields, max_size=2).map(tuple))
@example(status="200 OK", headers=())
def test_check_content_type_as_wsgiref(status: object, headers: object) -> None:
    same_outcome("check_content_type", status, headers)


@given(value=anything, title=st.text(max_size=3))
def test_the_other_checks_as_wsgiref(value: object, title: str) -> None:
    same_outcome("check_exc_info", value)
    same_outcome("check_iterator", value)
    same_outcome("check_string_type", value, title)
    same_outcome("assert_", value, title)
    same_outcome("assert_", value)


@given(
    answer=anything | st.lists(anything, max_size=2),
    method=st.sampled_from(["read", "readline", "readlines", "write", "writelines", "flush", "close"]),
    args=st.lists(anything, max_size=2),
)
def test_stream_wrappers_as_wsgiref(answer: object, method: str, args: list[object]) -> None:
    def play(module: ModuleType) -> tuple[object, ...]:
        stream = Stream(answer)
        kind = "InputWrapper" if method.startswith("read") else "ErrorWrapper"
        return outcome(lambda: getattr(getattr(module, kind)(stream), method)(*args)), stream.calls

    assert play(ours) == play(reference)


@given(
    args=st.lists(anything, max_size=1).map(lambda extra: (good_environ(), good_start_response, *extra)),
    response_args=st.one_of(
        st.tuples(st.just("200 OK"), st.just([("Content-Type", "text/plain")])),
        st.tuples(statuses, header_lists),
        st.tuples(statuses, header_lists, anything),
        st.lists(anything, max_size=4),
    ),
    keywords=st.dictionaries(st.sampled_from(["exc_info", "x"]), st.none(), max_size=1),
    blocks=st.lists(st.binary(max_size=2) | anything, max_size=3),
    late=st.booleans(),
)
def test_whole_call_as_wsgiref(
    args: tuple[object, ...],
    response_args: tuple[object, ...],
    keywords: dict[str, None],
    blocks: list[object],
    late: bool,
) -> None:
    def play(module: ModuleType) -> list[object]:
        events: list[object] = []

        def app(environ: Environ, start_response: Any) -> Any:
            if late:
                return Body(*blocks)
            events.append(("write", type(start_response(*response_args, **keywords)).__name__))
            return Body(*blocks)

        def server() -> None:
            response = module.validator(app)(*args)
            try:
                events.extend(response)
            finally:
                response.close()
                events.append(response.original_iterator.closings)

        environ = args[0]
        assert isinstance(environ, dict)
        environ.update(good_environ(**{"wsgi.input": BytesIO(), "wsgi.errors": StringIO()}))
        events.append(outcome(server))
        return events

    assert play(ours) == play(reference)
