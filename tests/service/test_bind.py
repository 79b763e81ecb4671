"""Listening sockets from text: the forms of the text, TCP, and failures."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from fastwsgi._service import bind
from fastwsgi._service.bind import Address, Inherited, TcpAddress, UnixAddress, open_listeners, parse_bind
from listening import TIMEOUT, answers, opened

try:
    with socket.socket(socket.AF_INET6) as _probe:
        _probe.bind(("::1", 0))
    HAS_IPV6 = True
except OSError:
    HAS_IPV6 = False
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="IPv6")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", TcpAddress("127.0.0.1", 8000)),
        ("0.0.0.0:80", TcpAddress("0.0.0.0", 80)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("my_host.example-1.org.:65535", TcpAddress("my_host.example-1.org.", 65535)),
        ("1a.0xyz:1", TcpAddress("1a.0xyz", 1)),
        (":8000", TcpAddress("0.0.0.0", 8000)),
        ("[::1]:80", TcpAddress("::1", 80)),
        ("[::]:0", TcpAddress("::", 0)),
        ("[::ffff:1.2.3.4]:1", TcpAddress("::ffff:1.2.3.4", 1)),
        ("[fe80::1%eth0.1]:1", TcpAddress("fe80::1%eth0.1", 1)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock", None)),
        ("unix:app", UnixAddress("app", None)),
        ("unix:8000", UnixAddress("8000", None)),
        ("unix:/a b/:[]=&?mode=660", UnixAddress("/a b/:[]=&", 0o660)),
        ("unix:/a?mode=0600", UnixAddress("/a", 0o600)),
        ("unix:/a?mode=000", UnixAddress("/a", 0)),
        ("fd:0", Inherited(0)),
        ("fd:12", Inherited(12)),
    ],
)
def test_what_text_means(text: str, address: Address) -> None:
    assert parse_bind(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ":", "8000", "localhost", "127.0.0.1", "::1", "[::1]", "[::1]80", "::1:80", "[]:80", "[::1:80",
        "::1]:80", "[127.0.0.1]:80", "[localhost]:80", "[1:2]:80", "[::1%]:80", "[::1%a b]:80", "[[::1]]:80",
        "[::1%\xe9]:80", "h:", "h:-1", "h:+1", "h:080", "h:00", "h:1_0", "h:0x50", "h: 80", "h:80 ", " h:80", "h:80\n",
        "h:65536", "h:100000", "h:9999999999", "h:http", "h:\u0661", "h:1:2", "*:80", "a b:80", "a/b:80", "http://h:80",
        "u@h:80", "b\xfccher.example:80", "a..b:80", ".a:80", f"{'a' * 64}:80", "h\0:80", "256.1.1.1:80", "1.2.3:80",
        "127.1:80", "01.2.3.4:80", "0x7f000001:80", "0x7f.1:80", "a.0x:80", "8000:8000", "1.2.3.4.:80",
        "unix:", "unix", "unix:?mode=660", "unix:/a?", "unix:/a?mode=", "unix:/a?mode=66", "unix:/a?mode=680",
        "unix:/a?mode=1777", "unix:/a?mode=rw", "unix:/a?mode=660&x=1", "unix:/a?x=1", "unix:/a?b?mode=660",
        "unix:/a\0b", "unix:@a", "fd:", "fd:-1", "fd:01", "fd:x", "fd:3 ", "fd:9999999999",
    ],
)  # fmt: skip
def test_what_text_means_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"bind {text!r} ")) as caught:
        parse_bind(text)
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match=re.escape(f"bind {text!r} ")):
        open_listeners([text], environ={})


def test_tcp() -> None:
    with opened("127.0.0.1:0") as (listener,):
        host, port = listener.sock.getsockname()
        assert (listener.sock.family, listener.sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert host == "127.0.0.1"
        assert listener.url == f"http://127.0.0.1:{port}/"
        assert not listener.is_inherited
        assert not listener.sock.get_inheritable()
        assert answers(listener)
    assert listener.sock.fileno() == -1
    listener.close()


def test_all_interfaces() -> None:
    with opened(":0") as (listener,):
        host, port = listener.sock.getsockname()
        assert (listener.sock.family, host) == (socket.AF_INET, "0.0.0.0")
        assert answers(listener, ("127.0.0.1", port))


@needs_ipv6
def test_ipv6() -> None:
    with opened("[::1]:0", scheme="https") as (listener,):
        assert listener.sock.family == socket.AF_INET6
        assert listener.url == f"https://[::1]:{listener.sock.getsockname()[1]}/"
        assert answers(listener)


def test_a_name_is_resolved() -> None:
    with opened("localhost:0") as (listener,):
        assert listener.sock.getsockname()[0] in ("127.0.0.1", "::1")
        assert answers(listener)


def test_scheme() -> None:
    with opened("127.0.0.1:0", scheme="https") as (listener,):
        port = listener.sock.getsockname()[1]
        assert listener.url == f"https://127.0.0.1:{port}/"
        listener.scheme = "http"
        assert listener.url == f"http://127.0.0.1:{port}/"


def test_several() -> None:
    with opened("127.0.0.1:0", "127.0.0.1:0") as listeners:
        assert [answers(listener) for listener in listeners] == [True, True]
        assert len({listener.url for listener in listeners}) == 2


def test_the_port_is_free_again_at_once() -> None:
    with opened("127.0.0.1:0") as (listener,):
        port = listener.sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
            accepted, _ = listener.sock.accept()
            accepted.close()  # the server closes first, so that its side stays in TIME-WAIT
            assert client.recv(1) == b""
    with opened(f"127.0.0.1:{port}") as (listener,):
        assert answers(listener)


def test_a_port_has_one_owner() -> None:
    with opened("127.0.0.1:0") as (listener,):
        text = f"127.0.0.1:{listener.sock.getsockname()[1]}"
        with pytest.raises(OSError, match=re.escape(f"can't bind to {text}: ")) as caught:
            open_listeners([text], environ={})
        assert caught.value.errno == errno.EADDRINUSE
        assert answers(listener)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="SO_REUSEPORT")
def test_reuse_port() -> None:
    with opened("127.0.0.1:0", reuse_port=True) as (first,):
        text = f"127.0.0.1:{first.sock.getsockname()[1]}"
        with opened(text, reuse_port=True) as (second,):
            assert second.url == first.url
        with pytest.raises(OSError, match="can't bind"):
            open_listeners([text], environ={})


def test_reuse_port_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(ValueError, match="reuse_port"):
        open_listeners(["127.0.0.1:0"], reuse_port=True, environ={})


def test_reuse_address(monkeypatch: pytest.MonkeyPatch) -> None:
    # On Windows this option has another meaning, and another option has this meaning.
    with opened("127.0.0.1:0") as (listener,):
        is_windows = hasattr(socket, "SO_EXCLUSIVEADDRUSE")
        assert bool(listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) != is_windows
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    with opened("127.0.0.1:0") as (listener,):
        assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


@pytest.mark.parametrize("backlog", [0, -1])
def test_backlog(backlog: int) -> None:
    with pytest.raises(ValueError, match=f"backlog must be at least 1, not {backlog}"):
        open_listeners(["127.0.0.1:0"], backlog=backlog, environ={})


def test_backlog_is_listened_with(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Socket(socket.socket):
        def listen(self, size: int = -1) -> None:
            sizes.append(size)
            super().listen(size)

    monkeypatch.setattr(socket, "socket", Socket)
    with opened("127.0.0.1:0", backlog=7):
        assert sizes == [7]


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(OSError, match=r"can't bind to 192\.0\.2\.1:0: .") as caught:
        open_listeners(["192.0.2.1:0"], environ={})
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*args: Any, **keywords: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Nobody knows it")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(OSError, match=r"\Acan't bind to h\.example:80: Nobody knows it\Z") as caught:
        open_listeners(["h.example:80"], environ={})
    assert caught.value.errno is None  # a number without a colon would be something else


def test_after_a_failure_nothing_is_open(empty_place: Path) -> None:
    with opened("127.0.0.1:0") as (taken,):
        with opened("127.0.0.1:0") as (listener,):
            free = f"127.0.0.1:{listener.sock.getsockname()[1]}"
        binds = [free, taken.url[len("http://") : -1]]
        if hasattr(socket, "AF_UNIX"):
            binds.insert(0, "unix:s")
        with pytest.raises(OSError, match="can't bind"):
            open_listeners(binds, environ={})
        assert os.listdir(empty_place) == []
        with opened(free) as (listener,):
            assert answers(listener)


def test_bad_text_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "_open", lambda *args: pytest.fail("opened"))
    with pytest.raises(ValueError, match="bind 'x' "):
        open_listeners(["127.0.0.1:0", "x"], environ={})


def test_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "_open", lambda address, *args: pytest.fail(repr(address)))
    with pytest.raises(pytest.fail.Exception, match=re.escape(repr(TcpAddress("127.0.0.1", 8000)))):
        open_listeners([], environ={})
