"""The PROXY protocol: parse the header that a proxy sends first, with the address of its client.

It parses bytes and uses no sockets. Section numbers refer to HAProxy's specification, "The PROXY protocol, versions
1 & 2".
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct

from fastwsgi._http.grammar import BadRequest

# Section 2.1: one line, with its line end no longer than this.
_LONGEST_LINE = 107
_LINE_START = b"PROXY "
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?"
    rb"|(TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)

# Section 2.2:  signature, version and command, family and transport, length of what follows
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_START = struct.Struct("!12xBBH")
# Addresses take 216 octets at most, and the 16-bit length allows far more for extensions, which are skipped.
_LONGEST_REST = 4096
_LOCAL, _PROXY = 0x20, 0x21
# The family and transport of the client's connection, and how many octets its two addresses and ports take. The other
# defined combinations are for datagrams.
_UNSPECIFIED, _TCP4, _TCP6, _UNIX_STREAM = 0x00, 0x11, 0x21, 0x31
_ADDRESS_SIZES = {_UNSPECIFIED: 0, _TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}


class ProxyHeader:
    """Parses one header of either version at the beginning of a stream, and takes no octet after it.

    Use it only if every peer is a trusted proxy, because any client can send a header. Until it is ``done``, peek at
    ``wanted()`` octets, pass them to ``feed()``, and remove from the stream as many octets as that returns.
    """

    __slots__ = ("_octets", "_size", "done", "source")

    def __init__(self) -> None:
        #: Whether the header is complete.
        self.done = False
        #: The client's address and port, in a socket's notation. None: the proxy speaks for itself, or its client has
        #: no IP address; then use the address of the socket's peer.
        self.source: tuple[str, int] | None = None
        self._octets = bytearray()
        self._size = _LONGEST_LINE  # the most octets that the whole header may have

    def wanted(self) -> int:
        """How many octets to peek at; 0 when the header is complete. Octets after the header may be among them."""
        return 0 if self.done else self._size - len(self._octets)

    def feed(self, data: bytes) -> int:
        """Parse data, and return how many of its octets belong to the header; ``done`` tells whether it is complete.

        Raises BadRequest with status 400 as soon as the octets can't be a header.
        """
        taken = 0
        while taken < len(data) and not self.done:
            taken += self._take(data[taken : taken + self.wanted()])
        return taken

    def _take(self, block: bytes) -> int:
        octets, before = self._octets, len(self._octets)
        octets += block
        start, take = (_LINE_START, self._take_line) if octets[0] == _LINE_START[0] else (_SIGNATURE, self._take_binary)
        if octets[: len(start)] != start[: len(octets)]:
            raise BadRequest(400, "No PROXY protocol header")
        size = take(before)
        if size is not None:
            del octets[size:]
            self.done = True
        return len(octets) - before

    def _take_line(self, before: int) -> int | None:
        """Version 1: return the header's size if its end has arrived. before: how many octets were searched already."""
        octets = self._octets
        size = octets.find(b"\n", before) + 1
        if size:
            self.source = _source_of_line(bytes(octets[:size]))
            return size
        if len(octets) == _LONGEST_LINE:
            raise BadRequest(400, "PROXY protocol line too long")
        return None

    def _take_binary(self, before: int) -> int | None:
        """Version 2: return the header's size if all of it has arrived."""
        octets = self._octets
        if len(octets) < _START.size:
            return None
        if before < _START.size:
            self._size = _size_of_binary(octets)
        if len(octets) < self._size:
            return None
        self.source = _source_of_binary(octets)
        return self._size


def _source_of_line(line: bytes) -> tuple[str, int] | None:
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadRequest(400, "Bad PROXY protocol line")
    protocol, source, destination, source_port, destination_port = match.groups()
    if protocol is None:
        return None  # section 2.1: ignore what follows UNKNOWN
    try:
        # The ipaddress classes refuse what inet_aton() accepts: leading zeros and other bases.
        if protocol == b"TCP4":
            packed = ipaddress.IPv4Address(source.decode()).packed
            ipaddress.IPv4Address(destination.decode())
        else:
            packed = ipaddress.IPv6Address(source.decode()).packed
            ipaddress.IPv6Address(destination.decode())
    except ValueError:
        raise BadRequest(400, "Bad address in a PROXY protocol line") from None
    if max(int(source_port), int(destination_port)) > 65535:
        raise BadRequest(400, "Bad port in a PROXY protocol line")
    return _address(packed), int(source_port)


def _size_of_binary(octets: bytearray) -> int:
    """Section 2.2: the size of a header, from its first 16 octets."""
    command, family, length = _START.unpack_from(octets)
    if command not in (_LOCAL, _PROXY):
        raise BadRequest(400, "Unknown PROXY protocol version or command")
    if length > _LONGEST_REST:
        raise BadRequest(400, "PROXY protocol header too long")
    if command == _PROXY:
        needed = _ADDRESS_SIZES.get(family)
        if needed is None:
            raise BadRequest(400, "Unknown PROXY protocol family or transport")
        if length < needed:
            raise BadRequest(400, "PROXY protocol header too short for its addresses")
    return _START.size + int(length)


def _source_of_binary(octets: bytearray) -> tuple[str, int] | None:
    command, family, _ = _START.unpack_from(octets)
    if command == _LOCAL or family not in (_TCP4, _TCP6):
        return None
    size = 4 if family == _TCP4 else 16
    packed, port = struct.unpack_from(f"!{size}s{size}xH", octets, _START.size)
    return _address(packed), port


def _address(packed: bytes) -> str:
    # ipaddress formats an IPv4-mapped address differently from one Python version to the next.
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
