"""The PROXY protocol's header: the address in each version, where the header ends, and what is refused.

Section numbers refer to HAProxy's specification. Every header is tried in one piece, octet by octet, and with octets
after it, which must stay in the stream.
"""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastwsgi._events.proxy_protocol import ProxyHeader
from fastwsgi._http.grammar import BadRequest

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
V4 = bytes([192, 0, 2, 1, 10, 0, 0, 1]) + (56324).to_bytes(2, "big") + (443).to_bytes(2, "big")
V6 = bytes.fromhex("20010db8" + "00" * 11 + "01" + "00" * 15 + "01") + b"\x00\x50\x01\xbb"
UNIX = b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0")
TLV = b"\x04\x00\x05hello" + b"\x03\x00\x04\x01\x02\x03\x04"
#: The octets that may follow: a TLS handshake, a request, another header.
TRAILING = (b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n", b"\n", b"PROXY UNKNOWN\r\n", SIGNATURE)


def version_2(command: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + bytes([command, family]) + (len(rest) if length is None else length).to_bytes(2, "big") + rest


GOOD = {
    # Section 2.1
    "TCP4": (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", ("192.168.0.1", 56324)),
    "TCP4, shortest": (b"PROXY TCP4 0.0.0.0 1.1.1.1 0 0\r\n", ("0.0.0.0", 0)),
    "TCP4, longest": (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    "TCP6": (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", ("2001:db8::1", 1)),
    "TCP6 in another spelling": (b"PROXY TCP6 2001:0DB8:0:0::0001 ::1 1 2\r\n", ("2001:db8::1", 1)),
    "TCP6, longest": (
        b"PROXY TCP6 " + b":".join([b"ffff"] * 8) + b" " + b":".join([b"ffff"] * 8) + b" 65535 65535\r\n",
        (":".join(["ffff"] * 8), 65535),
    ),
    "TCP6, mapped": (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", ("::ffff:1.2.3.4", 1)),
    "UNKNOWN": (b"PROXY UNKNOWN\r\n", None),
    "UNKNOWN with addresses": (b"PROXY UNKNOWN 1.2.3.4 5.6.7.8 1 2\r\n", None),
    "UNKNOWN with anything": (b"PROXY UNKNOWN  \xff\x00 -1\r\n", None),
    "UNKNOWN, longest": (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None),
    # Section 2.2
    "IPv4": (version_2(0x21, 0x11, V4), ("192.0.2.1", 56324)),
    "IPv6": (version_2(0x21, 0x21, V6), ("2001:db8::1", 80)),
    "IPv6, mapped": (version_2(0x21, 0x21, bytes(10) + b"\xff\xff\x01\x02\x03\x04" + V6[16:]), ("::ffff:1.2.3.4", 80)),
    "IPv4 with extensions": (version_2(0x21, 0x11, V4 + TLV), ("192.0.2.1", 56324)),
    "IPv6 with extensions": (version_2(0x21, 0x21, V6 + TLV), ("2001:db8::1", 80)),
    "long extensions": (version_2(0x21, 0x11, V4 + b"\xe0\x01\x00" + b"\r\n" * 128), ("192.0.2.1", 56324)),
    "longest": (version_2(0x21, 0x11, V4.ljust(4096, b"\xff")), ("192.0.2.1", 56324)),
    "unix": (version_2(0x21, 0x31, UNIX), None),
    "unspecified": (version_2(0x21, 0x00, b""), None),
    "unspecified with extensions": (version_2(0x21, 0x00, TLV), None),
    "LOCAL": (version_2(0x20, 0x00, b""), None),
    "LOCAL with addresses": (version_2(0x20, 0x11, V4), None),
    "LOCAL of no known family": (version_2(0x20, 0xFF, b"xyz"), None),
}


@pytest.mark.parametrize("case", GOOD)
def test_whole(case: str) -> None:
    octets, source = GOOD[case]
    header = ProxyHeader()
    assert header.feed(octets) == len(octets)
    assert (header.done, header.source, header.wanted()) == (True, source, 0)


@pytest.mark.parametrize("trailing", TRAILING)
@pytest.mark.parametrize("case", GOOD)
def test_nothing_behind_it_is_taken(case: str, trailing: bytes) -> None:
    octets, source = GOOD[case]
    header = ProxyHeader()
    assert header.feed(octets + trailing) == len(octets)
    assert (header.done, header.source) == (True, source)
    assert header.feed(trailing) == 0


@pytest.mark.parametrize("case", GOOD)
def test_octet_by_octet(case: str) -> None:
    octets, source = GOOD[case]
    header = ProxyHeader()
    for position in range(len(octets)):
        assert not header.done
        assert header.source is None
        assert header.wanted() >= 1
        assert header.feed(octets[position : position + 1]) == 1
    assert (header.done, header.source) == (True, source)
    assert header.feed(b"\r\n") == 0


@pytest.mark.parametrize("case", GOOD)
def test_by_peeking(case: str) -> None:
    # As the loop does: read a stream in pieces, and take what the header says, at least one octet each time.
    octets, source = GOOD[case]
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(5)
        far.sendall(octets + TRAILING[0])
        header = ProxyHeader()
        while not header.done:
            taken = header.feed(near.recv(header.wanted(), socket.MSG_PEEK))
            assert taken
            assert len(near.recv(taken)) == taken
        assert header.source == source
        far.shutdown(socket.SHUT_WR)
        assert near.recv(100) == TRAILING[0]


def test_no_more_is_wanted_than_a_header_may_have() -> None:
    header = ProxyHeader()
    assert header.wanted() == 107
    header.feed(b"PROXY TCP4")
    assert header.wanted() == 97
    header = ProxyHeader()
    header.feed(version_2(0x21, 0x11, b"", length=500))
    assert header.wanted() == 500
    header.feed(V4)
    assert header.wanted() == 488


def feed(header: ProxyHeader, pieces: list[bytes]) -> int:
    return sum(header.feed(piece) for piece in pieces)


def line(words: bytes) -> bytes:
    return b"PROXY " + words + b"\r\n"


BAD = {
    # Section 2.1
    "nothing else": b"PROXY \r\n",
    "no space": b"PROXY\r\n",
    "lower case": b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "lower case protocol": line(b"tcp4 1.2.3.4 5.6.7.8 1 2"),
    "another protocol": line(b"UDP4 1.2.3.4 5.6.7.8 1 2"),
    "another known word": line(b"UNKNOWNS"),
    "two spaces": line(b"TCP4 1.2.3.4  5.6.7.8 1 2"),
    "a tab": line(b"TCP4 1.2.3.4\t5.6.7.8 1 2"),
    "space at the end": line(b"TCP4 1.2.3.4 5.6.7.8 1 2 "),
    "space in front": b" PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "two spaces after the start": line(b" TCP4 1.2.3.4 5.6.7.8 1 2"),
    "no destination port": line(b"TCP4 1.2.3.4 5.6.7.8 1"),
    "a port too many": line(b"TCP4 1.2.3.4 5.6.7.8 1 2 3"),
    "LF": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
    "LF after UNKNOWN": b"PROXY UNKNOWN\n",
    "LF within UNKNOWN": line(b"UNKNOWN a\nb"),
    "CR within UNKNOWN": line(b"UNKNOWN a\rb"),
    "CR twice": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
    "port over 65535": line(b"TCP4 1.2.3.4 5.6.7.8 65536 2"),
    "destination port over 65535": line(b"TCP4 1.2.3.4 5.6.7.8 1 65536"),
    "port of six digits": line(b"TCP4 1.2.3.4 5.6.7.8 1 100000"),
    "leading zero": line(b"TCP4 1.2.3.4 5.6.7.8 01 2"),
    "two zeros": line(b"TCP4 1.2.3.4 5.6.7.8 1 00"),
    "signed port": line(b"TCP4 1.2.3.4 5.6.7.8 +1 2"),
    "negative port": line(b"TCP4 1.2.3.4 5.6.7.8 1 -2"),
    "underscore": line(b"TCP4 1.2.3.4 5.6.7.8 1_0 2"),
    "digit of another script": line("TCP4 1.2.3.4 5.6.7.8 \u0661 2".encode()),
    "IPv4 with a leading zero": line(b"TCP4 1.2.3.04 5.6.7.8 1 2"),
    "IPv4 of three numbers": line(b"TCP4 1.2.3 5.6.7.8 1 2"),
    "IPv4 number over 255": line(b"TCP4 1.2.3.256 5.6.7.8 1 2"),
    "hexadecimal IPv4": line(b"TCP4 0x7f.0.0.1 5.6.7.8 1 2"),
    "IPv4 as one number": line(b"TCP4 2130706433 5.6.7.8 1 2"),
    "bad destination": line(b"TCP4 1.2.3.4 5.6.7 1 2"),
    "a name": line(b"TCP4 cafe 5.6.7.8 1 2"),
    "IPv6 for TCP4": line(b"TCP4 ::1 ::1 1 2"),
    "IPv6 destination for TCP4": line(b"TCP4 1.2.3.4 ::1 1 2"),
    "IPv4 for TCP6": line(b"TCP6 1.2.3.4 5.6.7.8 1 2"),
    "IPv4 destination for TCP6": line(b"TCP6 ::1 5.6.7.8 1 2"),
    "IPv6 with brackets": line(b"TCP6 [::1] ::1 1 2"),
    "IPv6 with a zone": line(b"TCP6 fe80::1%eth0 ::1 1 2"),
    "IPv6 with two gaps": line(b"TCP6 1::2::3 ::1 1 2"),
    "IPv6 too short": line(b"TCP6 1:2:3 ::1 1 2"),
    "IPv6 of five digits": line(b"TCP6 00001::1 ::1 1 2"),
    "line too long": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "line without an end": b"PROXY UNKNOWN " + b"x" * 1000,
    # Section 2.2
    "version 1, binary": version_2(0x11, 0x11, V4),
    "version 3": version_2(0x31, 0x11, V4),
    "command 2": version_2(0x22, 0x11, V4),
    "command 15": version_2(0x2F, 0x11, V4),
    "UDP over IPv4": version_2(0x21, 0x12, V4),
    "UDP over IPv6": version_2(0x21, 0x22, V6),
    "unix datagram": version_2(0x21, 0x32, UNIX),
    "stream of no family": version_2(0x21, 0x01, V4),
    "IPv4 of no transport": version_2(0x21, 0x10, V4),
    "transport 3": version_2(0x21, 0x13, V4),
    "family 4": version_2(0x21, 0x41, UNIX),
    "IPv4 too short": version_2(0x21, 0x11, V4[:-1]),
    "IPv6 too short for its family": version_2(0x21, 0x21, V6[:-1]),
    "IPv6 as long as IPv4": version_2(0x21, 0x21, V4),
    "unix too short": version_2(0x21, 0x31, UNIX[:-1]),
    "no addresses": version_2(0x21, 0x11, b""),
    "too long": version_2(0x21, 0x11, V4, length=4097),
    "LOCAL, too long": version_2(0x20, 0x00, b"", length=65535),
    "signature cut": SIGNATURE[:11] + b"\r" + b"\x21\x11\x00\x0c" + V4,
    # Section 5: other input that may come instead
    "a request": b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "an empty line and a request": b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST": b"POST / HTTP/1.1\r\n\r\n",
    "PROPFIND": b"PROPFIND / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "NUL": b"\0",
}


@pytest.mark.parametrize("arrival", ["whole", "octet by octet"])
@pytest.mark.parametrize("case", BAD)
def test_what_is_no_header(case: str, arrival: str) -> None:
    octets = BAD[case]
    header = ProxyHeader()
    with pytest.raises(BadRequest) as caught:
        feed(header, [octets] if arrival == "whole" else [octets[i : i + 1] for i in range(len(octets))])
    assert caught.value.status == 400
    assert (header.done, header.source) == (False, None)


@pytest.mark.parametrize("octets", [b"G", b"\x16", b"\n", b"PO", b"PROXYT", SIGNATURE[:4] + b"G"])
def test_it_says_so_as_soon_as_it_can(octets: bytes) -> None:
    header = ProxyHeader()
    assert header.feed(octets[:-1]) == len(octets) - 1
    with pytest.raises(BadRequest):
        header.feed(octets[-1:])


def test_a_long_version_2_header_is_refused_before_it_comes() -> None:
    start = version_2(0x21, 0x11, b"", length=4097)
    header = ProxyHeader()
    header.feed(start[:-1])
    with pytest.raises(BadRequest):
        header.feed(start[-1:])


ports = st.integers(0, 65535)
addresses = st.one_of(
    st.tuples(st.just(4), st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(6), st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)),
)


def encode(version: int, source: bytes, destination: bytes, ports: tuple[int, int], rest: bytes, short: bool) -> bytes:
    """Make a header. short: whether IPv6 addresses are abbreviated."""
    family = {4: (0x11, "TCP4"), 16: (0x21, "TCP6")}[len(source)]
    if version == 2:
        numbers = b"".join(port.to_bytes(2, "big") for port in ports)
        return version_2(0x21, family[0], source + destination + numbers + rest)
    texts = [".".join(map(str, each)) if len(each) == 4 else each.hex(":", 2) for each in (source, destination)]
    if short:
        texts = [str(ipaddress.ip_address(each)) for each in texts]
    return f"PROXY {family[1]} {texts[0]} {texts[1]} {ports[0]} {ports[1]}\r\n".encode()


@given(
    version=st.sampled_from([1, 2]),
    pair=addresses,
    ports=st.tuples(ports, ports),
    extensions=st.binary(max_size=300),
    short=st.booleans(),
    trailing=st.binary(max_size=50),
    cuts=st.lists(st.integers(1, 400), max_size=6),
)
def test_round_trip(
    version: int,
    pair: tuple[int, bytes, bytes],
    ports: tuple[int, int],
    extensions: bytes,
    short: bool,
    trailing: bytes,
    cuts: list[int],
) -> None:
    _, source, destination = pair
    octets = encode(version, source, destination, ports, extensions, short)
    stream, header, taken = octets + trailing, ProxyHeader(), 0
    for size in [*cuts, len(stream)]:
        taken += header.feed(stream[taken : taken + size])
    assert taken == len(octets)
    assert header.done
    assert header.source is not None
    assert ipaddress.ip_address(header.source[0]) == ipaddress.ip_address(source)
    assert header.source[1] == ports[0]


garbage = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(b"PROXY ".__add__),
    st.text(" 0123456789.:abcdefTCP46UNKOW\r\n", max_size=110).map(lambda text: b"PROXY " + text.encode()),
    st.binary(max_size=300).map(SIGNATURE.__add__),
    st.tuples(st.sampled_from([0x20, 0x21]), st.integers(0, 255), st.binary(max_size=250), st.integers(0, 65535)).map(
        lambda parts: version_2(parts[0], parts[1], parts[2], parts[3])
    ),
)


@given(octets=garbage, cut=st.integers(0, 300))
def test_garbage(octets: bytes, cut: int) -> None:
    def outcome(pieces: list[bytes]) -> object:
        header = ProxyHeader()
        try:
            taken = feed(header, pieces)
        except BadRequest as error:
            return error.reason
        assert header.done or taken == len(octets)
        assert header.wanted() <= 4096
        return header.done, header.source, taken

    # The result must not depend on the pieces.
    assert outcome([octets]) == outcome([octets[:cut], octets[cut:]])
    assert outcome([octets]) == outcome([octets[i : i + 1] for i in range(len(octets))])
