"""fastwsgi.util: known answers on every leg, and ours against wsgiref's on generated environs."""

from __future__ import annotations

import wsgiref.util as reference
from collections.abc import Callable
from io import BytesIO, StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fastwsgi.util as ours

Environ = dict[str, Any]


def filled_environ(wsgi: SimpleNamespace, **variables: str) -> Environ:
    environ: Environ = dict(variables)
    wsgi.util.setup_testing_defaults(environ)
    return environ


# --- guess_scheme


@pytest.mark.shared
@pytest.mark.parametrize(
    ("https", "scheme"),
    [("on", "https"), ("yes", "https"), ("1", "https"), ("ON", "http"), ("off", "http"), ("", "http")],
)
def test_guess_scheme(wsgi: SimpleNamespace, https: str, scheme: str) -> None:
    assert wsgi.util.guess_scheme({"HTTPS": https}) == scheme


@pytest.mark.shared
def test_guess_scheme_without_the_variable(wsgi: SimpleNamespace) -> None:
    assert wsgi.util.guess_scheme({}) == "http"


# --- application_uri and request_uri


@pytest.mark.shared
@pytest.mark.parametrize(
    ("variables", "application_uri", "request_uri"),
    [
        ({}, "http://127.0.0.1/", "http://127.0.0.1/"),
        ({"SCRIPT_NAME": "/app"}, "http://127.0.0.1/app", "http://127.0.0.1/app"),
        ({"SCRIPT_NAME": "/app", "PATH_INFO": "/x"}, "http://127.0.0.1/app", "http://127.0.0.1/app/x"),
        ({"PATH_INFO": "/x;y=1,2"}, "http://127.0.0.1/", "http://127.0.0.1/x;y=1,2"),
        ({"PATH_INFO": "/a b%/\xe4"}, "http://127.0.0.1/", "http://127.0.0.1/a%20b%25/%E4"),
        ({"SCRIPT_NAME": "/s;p ~"}, "http://127.0.0.1/s%3Bp%20~", "http://127.0.0.1/s%3Bp%20~"),
        ({"QUERY_STRING": "a=b&c"}, "http://127.0.0.1/", "http://127.0.0.1/?a=b&c"),
        ({"QUERY_STRING": ""}, "http://127.0.0.1/", "http://127.0.0.1/"),
        ({"HTTP_HOST": "example.org:81"}, "http://example.org:81/", "http://example.org:81/"),
        (
            {"HTTP_HOST": "", "SERVER_NAME": "a.example", "SERVER_PORT": "8080"},
            "http://a.example:8080/",
            "http://a.example:8080/",
        ),
        (
            {"HTTP_HOST": "", "SERVER_NAME": "a.example", "SERVER_PORT": "80"},
            "http://a.example/",
            "http://a.example/",
        ),
        (
            {"HTTP_HOST": "", "SERVER_NAME": "a.example", "HTTPS": "on"},
            "https://a.example/",
            "https://a.example/",
        ),
        (
            {"HTTP_HOST": "", "SERVER_NAME": "a.example", "SERVER_PORT": "80", "HTTPS": "on"},
            "https://a.example:80/",
            "https://a.example:80/",
        ),
    ],
)
def test_uris(wsgi: SimpleNamespace, variables: dict[str, str], application_uri: str, request_uri: str) -> None:
    environ = filled_environ(wsgi, **variables)
    before = dict(environ)
    assert wsgi.util.application_uri(environ) == application_uri
    assert wsgi.util.request_uri(environ) == request_uri
    assert environ == before


@pytest.mark.shared
def test_request_uri_without_the_query(wsgi: SimpleNamespace) -> None:
    environ = filled_environ(wsgi, QUERY_STRING="a=b", PATH_INFO="/x")
    assert wsgi.util.request_uri(environ, include_query=False) == "http://127.0.0.1/x"
    assert wsgi.util.request_uri(environ, False) == "http://127.0.0.1/x"


@pytest.mark.shared
@pytest.mark.parametrize("function", ["application_uri", "request_uri"])
@pytest.mark.parametrize("missing", ["wsgi.url_scheme", "SERVER_NAME", "SERVER_PORT"])
def test_uris_need_scheme_name_and_port(wsgi: SimpleNamespace, function: str, missing: str) -> None:
    environ = filled_environ(wsgi, HTTP_HOST="")
    del environ[missing]
    with pytest.raises(KeyError) as caught:
        getattr(wsgi.util, function)(environ)
    assert caught.value.args == (missing,)


@pytest.mark.shared
@pytest.mark.parametrize("key", ["SCRIPT_NAME", "PATH_INFO"])
def test_uris_refuse_text_that_never_was_bytes(wsgi: SimpleNamespace, key: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        wsgi.util.request_uri(filled_environ(wsgi, **{key: "/\u2603"}))


# --- shift_path_info


@pytest.mark.shared
@pytest.mark.parametrize(
    ("before", "name", "after"),
    [
        (("", "/a"), "a", ("/a", "")),
        (("", "/a/b/c"), "a", ("/a", "/b/c")),
        (("/x", "/a/b"), "a", ("/x/a", "/b")),
        (("/x", "/a/"), "a", ("/x/a", "/")),
        (("/x", "/"), "", ("/x/", "")),
        (("/x/", "/a"), "a", ("/x/a", "")),
        (("", "/"), "", ("/", "")),
        (("/a", "/b//c/./d/"), "b", ("/a/b", "/c/d/")),
        (("/a", "///b"), "b", ("/a/b", "")),
        (("/a", "/."), None, ("/a", "")),
        (("/a", "/./b"), "b", ("/a/b", "")),
        (("/a", "/.."), "..", ("", "")),
        (("/a/b", "/../c"), "..", ("/a", "/c")),
        (("/a", "/.hidden/x"), ".hidden", ("/a/.hidden", "/x")),
        (("a", "/b"), "b", ("a/b", "")),
        (("//a", "/b"), "b", ("//a/b", "")),
        (("/", "/b"), "b", ("//b", "")),
    ],
)
def test_shift_path_info(
    wsgi: SimpleNamespace, before: tuple[str, str], name: str | None, after: tuple[str, str]
) -> None:
    environ = {"SCRIPT_NAME": before[0], "PATH_INFO": before[1]}
    assert wsgi.util.shift_path_info(environ) == name
    assert environ == {"SCRIPT_NAME": after[0], "PATH_INFO": after[1]}


@pytest.mark.shared
@pytest.mark.parametrize("environ", [{}, {"PATH_INFO": ""}, {"PATH_INFO": "", "SCRIPT_NAME": "/x/"}])
def test_shift_path_info_at_the_end_of_the_path(wsgi: SimpleNamespace, environ: Environ) -> None:
    after = dict(environ)
    assert wsgi.util.shift_path_info(after) is None
    assert after == environ


@pytest.mark.shared
def test_shift_path_info_walks_to_the_end(wsgi: SimpleNamespace) -> None:
    environ = {"SCRIPT_NAME": "", "PATH_INFO": "/a//b/./c/"}
    names = []
    while environ["PATH_INFO"]:
        names.append(wsgi.util.shift_path_info(environ))
    assert names == ["a", "b", "c", ""]
    assert environ["SCRIPT_NAME"] == "/a/b/c/"


@pytest.mark.shared
def test_shift_path_info_without_a_slash(wsgi: SimpleNamespace) -> None:
    environ = {"SCRIPT_NAME": "/x", "PATH_INFO": "a"}
    with pytest.raises(IndexError):
        wsgi.util.shift_path_info(environ)
    assert environ == {"SCRIPT_NAME": "/x", "PATH_INFO": "a"}


# --- setup_testing_defaults


@pytest.mark.shared
def test_setup_testing_defaults_from_nothing(wsgi: SimpleNamespace) -> None:
    environ: Environ = {}
    assert wsgi.util.setup_testing_defaults(environ) is None
    body, errors = environ.pop("wsgi.input"), environ.pop("wsgi.errors")
    assert type(body) is BytesIO
    assert body.read() == b""
    assert type(errors) is StringIO
    assert environ == {
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PROTOCOL": "HTTP/1.0",
        "HTTP_HOST": "127.0.0.1",
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "SERVER_PORT": "80",
        "wsgi.version": (1, 0),
        "wsgi.run_once": 0,
        "wsgi.multithread": 0,
        "wsgi.multiprocess": 0,
        "wsgi.url_scheme": "http",
    }


@pytest.mark.shared
def test_setup_testing_defaults_keeps_what_is_there(wsgi: SimpleNamespace) -> None:
    full: Environ = {}
    wsgi.util.setup_testing_defaults(full)
    mine = dict.fromkeys(full, "mine")
    wsgi.util.setup_testing_defaults(mine)
    assert mine == dict.fromkeys(full, "mine")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("given_keys", "derived"),
    [
        ({"SERVER_NAME": "a.example"}, {"HTTP_HOST": "a.example"}),
        ({"HTTPS": "on"}, {"wsgi.url_scheme": "https", "SERVER_PORT": "443"}),
        ({"wsgi.url_scheme": "gopher"}, {"SERVER_PORT": None}),
        ({"SCRIPT_NAME": "/x"}, {"PATH_INFO": None}),
        ({"PATH_INFO": "/x"}, {"SCRIPT_NAME": None}),
    ],
)
def test_setup_testing_defaults_derives(
    wsgi: SimpleNamespace, given_keys: Environ, derived: dict[str, str | None]
) -> None:
    environ = dict(given_keys)
    wsgi.util.setup_testing_defaults(environ)
    assert {key: environ.get(key) for key in derived} == derived


# --- the twins' names, reached through this module


@pytest.mark.shared
@pytest.mark.parametrize(
    ("header_name", "expected"),
    [("Connection", True), ("keep-alive", True), ("TE", True), ("Content-Type", False), ("", False)],
)
def test_is_hop_by_hop(wsgi: SimpleNamespace, header_name: str, expected: bool) -> None:
    assert wsgi.util.is_hop_by_hop(header_name) is expected


@pytest.mark.shared
def test_file_wrapper(wsgi: SimpleNamespace) -> None:
    assert list(wsgi.util.FileWrapper(BytesIO(b"abcde"), 2)) == [b"ab", b"cd", b"e"]


def test_public_names() -> None:
    assert sorted(ours.__all__) == sorted({*reference.__all__, "is_hop_by_hop"})


# --- ours against wsgiref's


def outcome(function: Callable[..., object], environ: Environ, *args: object) -> tuple[object, ...]:
    """The result or exception of a call, and the environ after it, in comparable form."""
    environ = dict(environ)
    try:
        result: tuple[object, ...] = ("returned", function(environ, *args))
    except Exception as error:
        result = ("raised", type(error), str(error))
    # Order counts too: an application may print its environ.
    after = [
        (key, type(value), value) if type(value) in (str, int, tuple) else (key, type(value))
        for key, value in environ.items()
    ]
    return *result, after


texts = st.text(max_size=8)
# Mostly characters with a meaning in a path, and characters that must or can't be quoted.
paths = st.one_of(
    st.text(alphabet="//..ab~;=,%- \xe4\u2603\0\n\ud800", max_size=12),
    st.lists(st.sampled_from(["", ".", "..", "a", "b.c", ".d", "\xe4"]), max_size=6).map("/".join),
    st.lists(st.sampled_from(["", ".", "..", "a", "b.c", ".d"]), max_size=6).map(lambda parts: "/" + "/".join(parts)),
)
environs = st.fixed_dictionaries(
    {},
    optional={
        "wsgi.url_scheme": st.sampled_from(["http", "https", "ftp", ""]) | texts,
        "HTTPS": st.sampled_from(["on", "yes", "1", "off", ""]) | texts,
        "HTTP_HOST": st.sampled_from(["example.org", ""]) | texts,
        "SERVER_NAME": texts,
        "SERVER_PORT": st.sampled_from(["80", "443", "8000", ""]) | texts,
        "SERVER_PROTOCOL": texts,
        "REQUEST_METHOD": texts,
        "SCRIPT_NAME": paths,
        "PATH_INFO": paths,
        "QUERY_STRING": texts,
        "wsgi.version": st.just((1, 0)),
        "wsgi.input": st.just("body"),
    },
)
# So that most of the generated environs are valid up to their paths.
addressed_environs = environs.map(
    lambda environ: {"wsgi.url_scheme": "http", "SERVER_NAME": "a", "SERVER_PORT": "80", **environ}
)


@given(environ=environs)
def test_guess_scheme_as_wsgiref(environ: Environ) -> None:
    assert outcome(ours.guess_scheme, environ) == outcome(reference.guess_scheme, environ)


@given(environ=environs | addressed_environs)
def test_application_uri_as_wsgiref(environ: Environ) -> None:
    assert outcome(ours.application_uri, environ) == outcome(reference.application_uri, environ)


@given(environ=environs | addressed_environs, include_query=st.booleans())
def test_request_uri_as_wsgiref(environ: Environ, include_query: bool) -> None:
    expected = outcome(reference.request_uri, environ, include_query)
    assert outcome(ours.request_uri, environ, include_query) == expected


@given(environ=environs)
@example(environ={"PATH_INFO": "/\0a/b", "SCRIPT_NAME": "/c"})
def test_shift_path_info_as_wsgiref(environ: Environ) -> None:
    assert outcome(ours.shift_path_info, environ) == outcome(reference.shift_path_info, environ)


@given(script_name=paths, path_info=paths)
def test_shift_path_info_as_wsgiref_to_the_end_of_the_path(script_name: str, path_info: str) -> None:
    mine = {"SCRIPT_NAME": script_name, "PATH_INFO": "/" + path_info}
    theirs = dict(mine)
    while theirs["PATH_INFO"]:
        assert ours.shift_path_info(mine) == reference.shift_path_info(theirs)
        assert mine == theirs


@given(environ=environs)
def test_setup_testing_defaults_as_wsgiref(environ: Environ) -> None:
    assert outcome(ours.setup_testing_defaults, environ) == outcome(reference.setup_testing_defaults, environ)
