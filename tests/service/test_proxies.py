"""The fields of proxies: which peers are trusted, which address is the client's, and spoofing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastwsgi._backend import build_environ, parse_head
from fastwsgi._service.proxies import FIELDS, USUAL_FIELDS, Proxies
from fastwsgi.util import request_uri

PROXY = "10.0.0.1"
OTHER_PROXY = "10.0.0.2"
CLIENT = "192.0.2.1"
ALLOW = ("10.0.0.0/8", "2001:db8:f::/48")
ALL_X = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port")
BY_RFC = ("Forwarded",)


def environ_of(
    *lines: str, peer: str = PROXY, host: str | None = "example.com", scheme: str = "http"
) -> dict[str, Any]:
    """The environ of a request with these field lines."""
    own = [f"Host: {host}"] if host is not None else []
    head = "\r\n".join(["GET /p?q HTTP/1.0", *own, *lines, "", ""])
    environ = build_environ({"SERVER_NAME": "backend", "SERVER_PORT": "8000"}, parse_head(head.encode("latin-1")))
    environ |= {"REMOTE_ADDR": peer, "REMOTE_PORT": "4711", "wsgi.url_scheme": scheme}
    return environ


def revised(
    *lines: str, allow: Sequence[str] = ALLOW, fields: Sequence[str] = ALL_X, **keywords: Any
) -> dict[str, Any]:
    environ = environ_of(*lines, **keywords)
    Proxies(allow, fields).revise(environ)
    return environ


def client(environ: dict[str, Any]) -> tuple[str, str]:
    return environ["REMOTE_ADDR"], environ["REMOTE_PORT"]


# ---- trusted peers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allow", "address", "expected"),
    [
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.2", False),
        (["127.0.0.1"], "::1", False),
        (["127.0.0.1"], "", False),
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.0/255.0.0.0"], "10.255.0.1", True),
        (["192.0.2.1", "10.0.0.0/8"], "10.0.0.1", True),
        (["::1"], "::1", True),
        (["::1"], "0:0:0:0:0:0:0:1", True),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        # RFC 4291 section 2.5.5.2: on a socket for both versions
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["10.0.0.0/8"], "::ffff:11.0.0.1", False),
        (["::ffff:10.0.0.0/104"], "10.0.0.1", True),
        (["::ffff:10.0.0.1"], "::ffff:10.0.0.1", True),
        (["::ffff:10.0.0.1"], "10.0.0.2", False),
        (["::/1"], "10.0.0.1", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["unix"], "", True),
        (["unix"], "127.0.0.1", False),
        (["*"], "192.0.2.1", True),
        (["*"], "", True),
        (["*", "10.0.0.0/8"], "192.0.2.1", True),
        ([], "127.0.0.1", False),
        ([], "", False),
        (["10.0.0.0/8"], "nonsense", False),
    ],
)
def test_trusts(allow: list[str], address: str, expected: bool) -> None:
    proxies = Proxies(allow)
    assert [proxies.trusts(address) for _ in range(2)] == [expected] * 2
    assert proxies.trusts_anybody is bool(allow)


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    proxies = Proxies(["10.0.0.0/8"])
    for number in range(3000):
        proxies.trusts(f"10.0.{number // 256}.{number % 256}")
    assert proxies._is_listed.cache_info().currsize == 1024


@pytest.mark.parametrize(
    ("allow", "fields", "words"),
    [
        (["nonsense"], ALL_X, "allow has 'nonsense'"),
        ([""], ALL_X, "allow has ''"),
        (["10.0.0.1", "10.0.0.256"], ALL_X, "allow has '10.0.0.256'"),
        (["10.0.0.1/8"], ALL_X, "allow has '10.0.0.1/8'"),
        (["10.0.0.0/33"], ALL_X, "allow has '10.0.0.0/33'"),
        (["localhost"], ALL_X, "allow has 'localhost'"),
        (["0.0.0.0/0"], ALL_X, "allow has '0.0.0.0/0'"),
        (["::/0"], ALL_X, "allow has '::/0'"),
        (["::ffff:0:0/96"], ALL_X, "allow has '::ffff:0:0/96'"),
        ("10.0.0.1", ALL_X, "allow is a sequence of strings, not one string: '10.0.0.1'"),
        ("*", ALL_X, "allow is a sequence of strings, not one string: '*'"),
        (["*"], "Forwarded", "fields is a sequence of strings, not one string: 'Forwarded'"),
        (["*"], ["X-Real-IP"], "fields has 'X-Real-IP'"),
        (["*"], ["Forwarded", "X-Forwarded-For"], "fields has both"),
    ],
)
def test_bad_arguments_are_named(allow: Any, fields: Any, words: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        Proxies(allow, fields)


def test_names_of_fields_have_no_case() -> None:
    environ = revised(f"Forwarded: for={CLIENT}", fields=["forwarded"])
    assert client(environ) == (CLIENT, "")


# ---- the client's address ----------------------------------------------------------------------------

# The address of each node, in X-Forwarded-For and in the "for" of Forwarded; None if it has no address.
NODES = {
    "192.0.2.1": ("192.0.2.1", ""),
    "192.0.2.1:80": ("192.0.2.1", "80"),
    "192.0.2.1:_port-1.x": ("192.0.2.1", ""),
    "[2001:db8::1]": ("2001:db8::1", ""),
    "[2001:DB8:0::1]:65535": ("2001:db8::1", "65535"),
    "2001:db8::1": ("2001:db8::1", ""),
    "::ffff:192.0.2.1": ("192.0.2.1", ""),
    "[::ffff:c000:201]:1": ("192.0.2.1", "1"),
    "unknown": None,
    "_hidden": None,
    "_SEVKISEK": None,
    "192.0.2.256": None,
    "192.0.2": None,
    "192.0.2.01": None,
    "3221225985": None,
    "192.0.2.1:65536": None,
    "192.0.2.1:123456": None,
    "192.0.2.1:-1": None,
    "192.0.2.1:": None,
    "192.0.2.1:_": None,
    "192.0.2.1 192.0.2.2": None,
    "192.0.2.1/8": None,
    "[192.0.2.1]": None,
    "[2001:db8::1": None,
    "2001:db8::1]": None,
    "[2001:db8::1]80": None,
    "[2001:db8::1::]": None,
    "2001:db8::1:99999": None,
    "[fe80::1%eth0]": None,
    "fe80::1%<script>": None,
    "::": None,
    "'192.0.2.1'": None,
    ":": None,
    "localhost": None,
    "example.com": None,
    "\xb9.\xb2.\xb3.1": None,
    "1" * 5000: None,
    "[" + ":" * 5000 + "]": None,
}


@pytest.mark.parametrize("text", NODES, ids=lambda text: text[:30])
def test_nodes_in_x_forwarded_for(text: str) -> None:
    assert client(revised(f"X-Forwarded-For: {text}")) == (NODES[text] or (PROXY, "4711"))


@pytest.mark.parametrize("text", NODES, ids=lambda text: text[:30])
def test_nodes_in_forwarded(text: str) -> None:
    assert client(revised(f'Forwarded: for="{text}"', fields=BY_RFC)) == (NODES[text] or (PROXY, "4711"))


CHAINS: dict[str, tuple[tuple[str, ...], str]] = {
    "one client": ((CLIENT,), CLIENT),
    "what it said before": (("203.0.113.9", CLIENT), CLIENT),
    "two proxies": ((CLIENT, OTHER_PROXY), CLIENT),
    "an address behind it": (("203.0.113.9", CLIENT, OTHER_PROXY, "10.9.9.9"), CLIENT),
    "of both versions": ((CLIENT, "2001:db8:f::1", "::ffff:10.0.0.5"), CLIENT),
    "nobody else": ((OTHER_PROXY, "10.0.0.3"), OTHER_PROXY),
    "the proxy itself": ((PROXY,), PROXY),
    "nothing": ((), PROXY),
    "nothing that counts": (("", " ", ""), PROXY),
    "empty elements": (("", CLIENT, "", OTHER_PROXY, ""), CLIENT),
    "unknown, before the client": (("unknown", CLIENT), CLIENT),
    "unknown, behind a proxy": ((CLIENT, "unknown", OTHER_PROXY), OTHER_PROXY),
    "unknown, at once": ((CLIENT, "unknown"), PROXY),
    "a claim to be a proxy": ((OTHER_PROXY, CLIENT), CLIENT),
    "a claim to be local": (("127.0.0.1", CLIENT), CLIENT),
}
WAYS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "one line": lambda nodes: ["X-Forwarded-For: " + ", ".join(nodes)],
    "no spaces": lambda nodes: ["X-Forwarded-For: " + ",".join(nodes)],
    "tabs": lambda nodes: ["X-Forwarded-For: " + "\t ,\t".join(nodes)],
    "many lines": lambda nodes: [f"X-Forwarded-For: {node}" for node in nodes],
    "Forwarded": lambda nodes: ["Forwarded: " + ", ".join(f'for="{node}"' if node.strip() else "" for node in nodes)],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CHAINS)
def test_the_client_is_the_first_from_the_right_that_is_no_proxy(name: str, way: str) -> None:
    nodes, expected = CHAINS[name]
    nodes = tuple(f"[{node}]" if way == "Forwarded" and ":" in node else node for node in nodes)
    environ = revised(*WAYS[way](nodes), fields=BY_RFC if way == "Forwarded" else ALL_X)
    assert client(environ) == (expected, "" if expected != PROXY or name == "the proxy itself" else "4711")


@pytest.mark.parametrize(
    ("allow", "expected"),
    [(["*"], OTHER_PROXY), (["*", "10.0.0.0/8"], CLIENT), (["unix"], OTHER_PROXY), (["unix", "10.0.0.0/8"], CLIENT)],
)
def test_everybody_who_connects_is_a_proxy_and_nobody_in_a_field(allow: list[str], expected: str) -> None:
    environ = revised(f"X-Forwarded-For: 203.0.113.9, {CLIENT}, {OTHER_PROXY}", allow=allow, peer="")
    assert client(environ) == (expected, "")


# ---- RFC 7239 ----------------------------------------------------------------------------------------

RFC_EXAMPLES = {
    # section 4
    'for="_gazonk"': (PROXY, "4711", "http", "example.com"),
    'For="[2001:db8:cafe::17]:4711"': ("2001:db8:cafe::17", "4711", "http", "example.com"),
    "for=192.0.2.60;proto=http;by=203.0.113.43": ("192.0.2.60", "", "http", "example.com"),
    "for=192.0.2.43, for=198.51.100.17": ("198.51.100.17", "", "http", "example.com"),
    # section 6.1 to 6.3
    'for="192.0.2.43:47011"': ("192.0.2.43", "47011", "http", "example.com"),
    'for="[2001:db8:cafe::17]:47011"': ("2001:db8:cafe::17", "47011", "http", "example.com"),
    "for=unknown": (PROXY, "4711", "http", "example.com"),
    "for=_hidden, for=_SEVKISEK": (PROXY, "4711", "http", "example.com"),
    # section 7.1
    'for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown': (PROXY, "4711", "http", "example.com"),
    'for=192.0.2.43, for="[2001:db8:cafe::17]", for=unknown': (PROXY, "4711", "http", "example.com"),
    'for=192.0.2.43, for="[2001:db8:cafe::17]"': ("2001:db8:cafe::17", "", "http", "example.com"),
    # section 7.4
    'for=192.0.2.43, for="[2001:db8:f::17]"': ("192.0.2.43", "", "http", "example.com"),
    # section 4: the parameters in any order and case, pairs may be missing
    "proto=HTTPS;host=a.example;for=192.0.2.1": ("192.0.2.1", "", "https", "a.example"),
    'HOST="a.example:8443";Proto=https': (PROXY, "4711", "https", "a.example:8443"),
    "; for=192.0.2.1;;proto=https ;": ("192.0.2.1", "", "https", "example.com"),
    r'for="192.0.2.\1";secret="a\"b;c";proto="https"': ("192.0.2.1", "", "https", "example.com"),
    'for=192.0.2.1;host="";proto=""': ("192.0.2.1", "", "http", "example.com"),
}


@pytest.mark.parametrize("value", RFC_EXAMPLES)
def test_forwarded(value: str) -> None:
    environ = revised(f"Forwarded: {value}", fields=BY_RFC)
    assert (*client(environ), environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == RFC_EXAMPLES[value]


def test_scheme_and_host_are_what_the_proxy_saw_that_saw_the_client() -> None:
    environ = revised(
        "Forwarded: for=203.0.113.9;proto=ftp;host=claimed.example",
        f"Forwarded: for={CLIENT};proto=https;host=public.example",
        f"Forwarded: for={OTHER_PROXY};proto=http;host=internal.example",
        fields=BY_RFC,
    )
    assert client(environ) == (CLIENT, "")
    assert request_uri(environ) == "https://public.example/p?q"


@pytest.mark.parametrize("value", [f"for={CLIENT}\n", f"for={CLIENT};\n", "\n", f'for="{CLIENT}\n"'])
def test_a_line_end_is_no_end_of_an_element(value: str) -> None:
    environ = environ_of()
    environ["HTTP_FORWARDED"] = value  # no parser lets it through
    Proxies(ALLOW, BY_RFC).revise(environ)
    assert client(environ) == (PROXY, "4711")


BAD_FORWARDED = [
    "for",
    "for=",
    "=192.0.2.9",
    "for =192.0.2.9",
    "for= 192.0.2.9",
    "for=192.0.2.9:80",
    "for=[::9]",
    "for=192.0.2.9 proto=https",
    'for="192.0.2.9',
    'for=192.0.2.9"',
    'for="192.0.2.9"x',
    r'for="192.0.2.9\"',
    "for=192.0.2.9;for=192.0.2.9",
    "proto=https;for=192.0.2.9;PROTO=http",
    "for=192.0.2.9;host=\xe4",
    "192.0.2.9",
]


@pytest.mark.parametrize("value", BAD_FORWARDED)
def test_bad_elements_are_absent_with_what_is_to_their_left(value: str) -> None:
    assert client(revised(f"Forwarded: for=203.0.113.9;proto=https, {value}", fields=BY_RFC)) == (PROXY, "4711")
    environ = revised(f"Forwarded: for=203.0.113.9, {value}, for={OTHER_PROXY};proto=https", fields=BY_RFC)
    assert (*client(environ), environ["wsgi.url_scheme"]) == (OTHER_PROXY, "", "https")


# ---- scheme, host and port ---------------------------------------------------------------------------

# Host, X-Forwarded-Proto, -Host and -Port; the URI that the application sees, SERVER_NAME and SERVER_PORT.
SERVERS: dict[str, tuple[str | None, str, str, str, str, str, str]] = {
    "a scheme": ("h", "https", "", "", "https://h/p?q", "backend", "443"),
    "a scheme in capitals": ("h", "HTTPS", "", "", "https://h/p?q", "backend", "443"),
    "the scheme there was": ("h", "http", "", "", "http://h/p?q", "backend", "80"),
    "a scheme, and Host with a port": ("h:8443", "https", "", "", "https://h:8443/p?q", "backend", "8443"),
    "a scheme, and Host half a port": ("h:", "https", "", "", "https://h:/p?q", "backend", "443"),
    "a scheme, and Host no port": ("h:99999", "https", "", "", "https://h:99999/p?q", "backend", "443"),
    "a scheme, and IPv6": ("[::1]", "https", "", "", "https://[::1]/p?q", "backend", "443"),
    "a scheme and no Host": (None, "https", "", "", "https://backend/p?q", "backend", "443"),
    "of WebSockets": ("h", "wss", "", "", "https://h/p?q", "backend", "443"),
    "of WebSockets, in the clear": ("h", "ws", "", "", "http://h/p?q", "backend", "80"),
    "the last scheme": ("h", "http, https", "", "", "https://h/p?q", "backend", "443"),
    "a bad scheme": ("h", "javascript", "", "", "http://h/p?q", "backend", "8000"),
    "a bad last scheme": ("h", "https, x", "", "", "http://h/p?q", "backend", "8000"),
    "a host": ("h", "", "a.example", "", "http://a.example/p?q", "a.example", "80"),
    "a host with a port": ("h", "", "a.example:81", "", "http://a.example:81/p?q", "a.example", "81"),
    "a host with half a port": ("h", "", "a.example:", "", "http://a.example:/p?q", "a.example", "80"),
    "a host, IPv6": ("h", "", "[2001:db8::1]", "", "http://[2001:db8::1]/p?q", "[2001:db8::1]", "80"),
    "a host, IPv6 and port": ("h", "", "[2001:db8::1]:81", "", "http://[2001:db8::1]:81/p?q", "[2001:db8::1]", "81"),
    "a host where there was none": (None, "", "a.example", "", "http://a.example/p?q", "a.example", "80"),
    "the last host": ("h", "", "evil.example, a.example", "", "http://a.example/p?q", "a.example", "80"),
    "a scheme and a host": ("h", "https", "a.example", "", "https://a.example/p?q", "a.example", "443"),
    "a host with userinfo": ("h", "", "a@b", "", "http://h/p?q", "backend", "8000"),
    "a host with a path": ("h", "", "a/b", "", "http://h/p?q", "backend", "8000"),
    "a host with quotes": ("h", "", '"a"', "", "http://h/p?q", "backend", "8000"),
    "a host with a space": ("h", "", "a b", "", "http://h/p?q", "backend", "8000"),
    "a host with octets": ("h", "", "b\xfccher", "", "http://h/p?q", "backend", "8000"),
    "a host with a bad port": ("h", "", "a:65536", "", "http://h/p?q", "backend", "8000"),
    "a host with port 0": ("h", "", "a:0", "", "http://h/p?q", "backend", "8000"),
    "a host that is too long": ("h", "", "a" * 300, "", "http://h/p?q", "backend", "8000"),
    "a port": ("h", "", "", "81", "http://h:81/p?q", "backend", "81"),
    "a port and a scheme": ("h", "https", "", "8443", "https://h:8443/p?q", "backend", "8443"),
    "the scheme's port": ("h", "https", "", "443", "https://h/p?q", "backend", "443"),
    "a port, where Host has one": ("h:82", "", "", "81", "http://h:82/p?q", "backend", "82"),
    "a port, where the host has one": ("h", "", "a.example:82", "81", "http://a.example:82/p?q", "a.example", "82"),
    "a port and a host": ("h:82", "", "a.example", "81", "http://a.example:81/p?q", "a.example", "81"),
    "a port, and IPv6": ("[::1]", "", "", "81", "http://[::1]:81/p?q", "backend", "81"),
    "a port and no Host": (None, "", "", "81", "http://backend:81/p?q", "backend", "81"),
    "the last port": ("h", "", "", "1, 81", "http://h:81/p?q", "backend", "81"),
    "port 0": ("h", "", "", "0", "http://h/p?q", "backend", "8000"),
    "a port too high": ("h", "", "", "65536", "http://h/p?q", "backend", "8000"),
    "a port too long": ("h", "", "", "0" * 5000 + "81", "http://h/p?q", "backend", "8000"),
    "a port of other digits": ("h", "", "", "8\xb9", "http://h/p?q", "backend", "8000"),
    "a port with a host in it": ("h", "", "", "81@evil.example", "http://h/p?q", "backend", "8000"),
}


@pytest.mark.parametrize("name", SERVERS)
def test_the_uri_is_the_one_the_client_used(name: str) -> None:
    host, proto, forwarded_host, port, uri, server_name, server_port = SERVERS[name]
    said = {"Proto": proto, "Host": forwarded_host, "Port": port}
    lines = [f"X-Forwarded-{field}: {value}" for field, value in said.items() if value]
    environ = revised(*lines, host=host)
    no_host = {**environ, "HTTP_HOST": ""}
    if host is None and not forwarded_host:
        assert "HTTP_HOST" not in environ
    assert (request_uri(environ), environ["SERVER_NAME"], environ["SERVER_PORT"]) == (uri, server_name, server_port)
    assert client(environ) == (PROXY, "4711")
    assert request_uri(no_host).startswith(environ["wsgi.url_scheme"] + "://" + server_name)


@pytest.mark.parametrize(("scheme", "proto", "expected"), [("http", "https", "on"), ("https", "http", None)])
def test_https_agrees_with_the_scheme(scheme: str, proto: str, expected: str | None) -> None:
    environ = environ_of(f"X-Forwarded-Proto: {proto}", scheme=scheme)
    if scheme == "https":
        environ["HTTPS"] = "on"
    Proxies(ALLOW).revise(environ)
    assert (environ["wsgi.url_scheme"], environ.get("HTTPS")) == (proto, expected)


# ---- spoofing ----------------------------------------------------------------------------------------

LIES = (
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 666",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-User: root",
    "X-Forwarded: for=127.0.0.1",
    "x-forwarded-ssl: on",
    "X-Real-IP: 127.0.0.1",
    "Forwarded: for=127.0.0.1;proto=https;host=evil.example",
    "Forwarded-For: 127.0.0.1",
)


@pytest.mark.parametrize("line", LIES)
@pytest.mark.parametrize(("allow", "peer"), [(ALLOW, CLIENT), ([], PROXY), (ALLOW, ""), (["unix"], CLIENT)])
@pytest.mark.parametrize("fields", [ALL_X, BY_RFC, USUAL_FIELDS])
def test_nothing_of_an_untrusted_peer_reaches_the_application(
    line: str, allow: list[str], peer: str, fields: list[str]
) -> None:
    assert revised(line, "X-A: 1", allow=allow, fields=fields, peer=peer) == environ_of("X-A: 1", peer=peer)


def test_an_environ_without_a_peer_is_not_believed() -> None:
    environ = environ_of(*LIES)
    del environ["REMOTE_ADDR"]
    Proxies(["*", "unix"]).revise(environ)
    assert not Proxies.is_needed(environ)
    assert "REMOTE_ADDR" not in environ


# The client's lines come first, then those that the proxy added: fields, lines, client, URI, deleted keys.
SPOOFS: dict[str, tuple[Sequence[str], tuple[str, ...], str, str, str]] = {
    "the other kind: Forwarded, past a proxy that sets X-Forwarded-*": (
        ALL_X,
        ("Forwarded: for=127.0.0.1;proto=https;host=evil.example", f"X-Forwarded-For: {CLIENT}"),
        CLIENT, "http://example.com/p?q", "FORWARDED",
    ),
    "the other kind, alone": (
        ALL_X, ("Forwarded: for=127.0.0.1;proto=https",), PROXY, "http://example.com/p?q", "FORWARDED",
    ),
    "the other kind: X-Forwarded-*, past a proxy that sets Forwarded": (
        BY_RFC,
        (*LIES[:4], f"Forwarded: for={CLIENT};proto=http"),
        CLIENT, "http://example.com/p?q",
        "X_FORWARDED_FOR X_FORWARDED_PROTO X_FORWARDED_HOST X_FORWARDED_PORT",
    ),
    "host and port, past a proxy that doesn't set them": (
        USUAL_FIELDS,
        ("X-Forwarded-Host: evil.example", "X-Forwarded-Port: 666", f"X-Forwarded-For: {CLIENT}"),
        CLIENT, "http://example.com/p?q", "X_FORWARDED_HOST X_FORWARDED_PORT",
    ),
    "a scheme, past a proxy that doesn't set it": (
        ["X-Forwarded-For"],
        ("X-Forwarded-Proto: https", f"X-Forwarded-For: {CLIENT}"),
        CLIENT, "http://example.com/p?q", "X_FORWARDED_PROTO",
    ),
    "an address before its own": (
        ALL_X, (f"X-Forwarded-For: 127.0.0.1, {CLIENT}",), CLIENT, "http://example.com/p?q", "",
    ),
    "an address in a line of its own": (
        ALL_X, ("X-Forwarded-For: 127.0.0.1", f"X-Forwarded-For: {CLIENT}"), CLIENT, "http://example.com/p?q", "",
    ),
    "a trusted address before its own": (
        ALL_X, (f"X-Forwarded-For: {OTHER_PROXY}, {CLIENT}",), CLIENT, "http://example.com/p?q", "",
    ),
    "an underscore for a hyphen": (
        ALL_X, ("X_Forwarded_For: 127.0.0.1", f"X-Forwarded-For: {CLIENT}"), CLIENT, "http://example.com/p?q", "",
    ),
    "a scheme and a host before the proxy's": (
        ALL_X,
        ("X-Forwarded-Proto: https,http", "X-Forwarded-Host: evil.example,a.example"),
        PROXY, "http://a.example/p?q", "",
    ),
    "more schemes than addresses": (
        ALL_X,
        (f"X-Forwarded-For: {CLIENT}, {OTHER_PROXY}", "X-Forwarded-Proto: https, http"),
        CLIENT, "http://example.com/p?q", "",
    ),
    "an open quote before the proxy's element": (
        BY_RFC, (f'Forwarded: for=", for={CLIENT};proto=https',), CLIENT, "https://example.com/p?q", "",
    ),
    "an open quote that the proxy's would close": (
        BY_RFC,
        ('Forwarded: for=127.0.0.1;x="', 'Forwarded: for="192.0.2.1:80"'),
        CLIENT, "http://example.com/p?q", "",
    ),
    "an escaped quote before the proxy's element": (
        BY_RFC, (rf'Forwarded: for="\", for="{CLIENT}"',), CLIENT, "http://example.com/p?q", "",
    ),
    "a semicolon before the proxy's element": (
        BY_RFC, (f"Forwarded: host=evil.example;, for={CLIENT}",), CLIENT, "http://example.com/p?q", "",
    ),
    "an element within a quoted string": (
        BY_RFC, (f'Forwarded: x="a, for=127.0.0.1;proto=https, b", for={CLIENT}',),
        CLIENT, "http://example.com/p?q", "",
    ),
    "an element within the proxy's quoted string": (
        BY_RFC, (f'Forwarded: for={CLIENT};agent="a, for=127.0.0.1;proto=https, b"',),
        PROXY, "http://example.com/p?q", "",
    ),
    "an element at the end of the proxy's quoted string": (
        BY_RFC, (f'Forwarded: for={CLIENT};agent="a, for=127.0.0.1"',), PROXY, "http://example.com/p?q", "",
    ),
    "an element that ends a quoted string and begins one": (
        BY_RFC, ('Forwarded: a="x,for=";b=";for=127.0.0.1;c="',), PROXY, "http://example.com/p?q", "",
    ),
    "two clients in an element": (
        BY_RFC, (f"Forwarded: for=127.0.0.1;for={CLIENT}",), PROXY, "http://example.com/p?q", "",
    ),
    "X-Real-IP": (ALL_X, ("X-Real-IP: 127.0.0.1", f"X-Forwarded-For: {CLIENT}"), CLIENT, "http://example.com/p?q", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOOFS)
def test_spoofing(name: str) -> None:
    fields, lines, address, uri, gone = SPOOFS[name]
    environ = revised(*lines, fields=fields)
    assert (environ["REMOTE_ADDR"], request_uri(environ)) == (address, uri)
    keys = {f"HTTP_{key}" for key in gone.split()}
    assert keys <= environ_of(*lines).keys()
    assert environ_of(*lines).keys() - environ.keys() == keys


def test_fields_that_are_used_stay_as_they_came() -> None:
    lines = [f"X-Forwarded-For: 203.0.113.9, {CLIENT}", "X-Forwarded-Proto: https", "X-Forwarded-Host: a.example"]
    others = ["X-Forwarded-Prefix: /app", "X-Forwarded-User: anna", "X-Real-IP: 192.0.2.1"]
    before, after = environ_of(*lines, *others), revised(*lines, *others)
    names = [name for name in before if "FORWARDED" in name or "REAL" in name]
    assert len(names) == 6
    assert {name: after[name] for name in names} == {name: before[name] for name in names}


# ---- cost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", LIES)
def test_is_needed(line: str) -> None:
    assert Proxies([]).is_needed(environ_of(line))
    assert not Proxies(["*"]).is_needed(environ_of("X-Forward: 1", "Via: 1.1 proxy"))


def test_a_request_without_such_fields_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    proxies = Proxies(["*"])
    monkeypatch.setattr(Proxies, "trusts", lambda *args: pytest.fail("it was"))
    environ = environ_of("Via: 1.1 proxy")
    proxies.revise(environ)
    assert environ == environ_of("Via: 1.1 proxy")


def lines_run(call: Callable[[], object]) -> int:
    """How many lines of Python a call executes."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


LONG: dict[str, tuple[Sequence[str], Callable[[int], str]]] = {
    "trusted addresses": (ALL_X, lambda size: "X-Forwarded-For: " + ",".join(["10.0.0.2"] * size)),
    "different addresses": (
        ALL_X,
        lambda size: "X-Forwarded-For: " + ",".join(f"10.1.{number // 256}.{number % 256}" for number in range(size)),
    ),
    "nothing": (ALL_X, lambda size: "X-Forwarded-For: " + "," * size),
    "spaces": (ALL_X, lambda size: f"X-Forwarded-For: {CLIENT}" + " ," * size),
    "elements": (BY_RFC, lambda size: "Forwarded: " + ",".join(["for=10.0.0.2;proto=http"] * size)),
    "parameters": (BY_RFC, lambda size: "Forwarded: " + ";".join(f"a{number}=b" for number in range(size))),
    "empty parameters": (BY_RFC, lambda size: "Forwarded: for=10.0.0.2" + " ; " * size),
}


@pytest.mark.parametrize("name", LONG)
def test_the_cost_is_linear(name: str) -> None:
    fields, make = LONG[name]
    costs = []
    for size in (1000, 2000, 4000):
        environ = environ_of(make(size))
        proxies = Proxies(ALLOW, fields)
        costs.append(lines_run(lambda environ=environ, proxies=proxies: proxies.revise(environ)))  # type: ignore[misc]
    assert costs[0] > 1000
    assert costs[2] - costs[1] <= 2.2 * (costs[1] - costs[0])


SIZE = 1_000_000
HUGE = {
    "spaces": " " * SIZE + '"',
    "spaces in an element": "for=1" + " " * SIZE + "x",
    "a token": "a" * SIZE,
    "a token and more": "for=" + "a" * SIZE + '"',
    "a quoted string": 'for="' + "a" * SIZE + '"x',
    "an open quoted string": 'for="' + "a" * SIZE,
    "backslashes": 'for="' + "\\" * SIZE + '"',
    "quotes": 'for=1;a="' + '"' * SIZE,
    "semicolons": ";" * SIZE + '"',
    "spaces and semicolons": (" " * 1000 + ";") * (SIZE // 1000) + '"',
    "equals signs": "a" + "=" * SIZE,
    "colons": ":" * SIZE,
    "digits": "1" * SIZE,
    "a host": "host=" + "%41" * (SIZE // 3) + '"',
    "brackets": "[" * SIZE,
    "commas": "," * SIZE + '"' + "," * SIZE,
}


@pytest.mark.parametrize("fields", [ALL_X, BY_RFC])
@pytest.mark.parametrize("name", HUGE)
def test_no_element_takes_more_than_linear_time(name: str, fields: Sequence[str]) -> None:
    # No clock is read: quadratic work would exceed the time limit of the tests.
    environ = environ_of()
    environ |= dict.fromkeys(FIELDS.values(), HUGE[name])
    Proxies(["*"], fields).revise(environ)
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("http", "example.com")


# ---- generated fields --------------------------------------------------------------------------------

PIECES = [
    "for=", "proto=", "host=", "by=", "https", "http", "unknown", "_x", "10.0.0.1", "192.0.2.1", "[::1]", ":80", "h.a",
    *'",;=\\ \t\n\r\0[]:.%', "\xe9", "\u0663", "\ud800", "for=192.0.2.1,", 'for="',
]  # fmt: skip
ADDRESSES = ["192.0.2.1", "[2001:db8::1]:80", "for=192.0.2.1", 'for="[2001:db8::1]:80";proto=https']
GARBAGE = st.one_of(
    st.lists(st.sampled_from(ADDRESSES), min_size=1).map(", ".join),
    st.binary().map(lambda octets: octets.decode("latin-1")),
    st.lists(st.sampled_from(PIECES)).map("".join),
)
KEYS = [*FIELDS.values(), "HTTP_X_REAL_IP", "HTTP_X_FORWARDED_USER", "HTTP_HOST", "REMOTE_ADDR"]


@pytest.mark.parametrize("allow", [ALLOW, ["*"], ["unix"], []])
@pytest.mark.parametrize("fields", [ALL_X, BY_RFC, USUAL_FIELDS, []])
@given(claims=st.dictionaries(st.sampled_from(KEYS), GARBAGE), peer=st.sampled_from([PROXY, CLIENT, "", "x"]))
@example(claims={"HTTP_X_FORWARDED_FOR": "192.0.2.1", "HTTP_FORWARDED": "for=192.0.2.1"}, peer=PROXY)
def test_nothing_raises_and_nothing_bad_gets_through(
    allow: list[str], fields: list[str], claims: dict[str, str], peer: str
) -> None:
    environ = {**environ_of(peer=peer), **claims}
    before = dict(environ)
    Proxies(allow, fields).revise(environ)
    assert environ["wsgi.url_scheme"] in ("http", "https")
    assert environ["SERVER_PORT"].isdigit()
    if environ["REMOTE_ADDR"] != before["REMOTE_ADDR"]:
        assert Proxies([environ["REMOTE_ADDR"]]).trusts(environ["REMOTE_ADDR"])  # an address
        assert environ["REMOTE_PORT"] == "" or 0 <= int(environ["REMOTE_PORT"]) <= 65535
    if not Proxies(allow).trusts(before["REMOTE_ADDR"]):
        kept = {key: value for key, value in before.items() if "FORWARDED" not in key and "REAL" not in key}
        assert environ == kept


@given(st.lists(GARBAGE.map(lambda text: text.replace(",", ";")), max_size=5))
def test_no_client_gets_past_what_the_proxy_adds(said: list[str]) -> None:
    for key, own, fields in (
        ("HTTP_X_FORWARDED_FOR", CLIENT, ALL_X),
        ("HTTP_FORWARDED", f'for="{CLIENT}:80";host=a.example', BY_RFC),
    ):
        environ = environ_of()
        environ[key] = ",".join([*said, own])
        Proxies(ALLOW, fields).revise(environ)
        assert environ["REMOTE_ADDR"] == CLIENT
        assert environ["HTTP_HOST"] == ("a.example" if fields is BY_RFC else "example.com")
