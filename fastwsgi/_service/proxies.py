"""Take the client's address, the scheme and the host of a request from the fields of a trusted proxy.

A field looks the same whether a proxy wrote it or a client sent it and the proxy passed it on. So the operator has to
name the peers that are proxies, and the fields that they set. All other fields come from the client and aren't
believed:

- From an untrusted peer, all fields whose names begin with Forwarded or X-Forwarded, and X-Real-IP, are deleted, so
  that no application mistakes them for a proxy's. (Only the application can know the other names that a vendor uses.)
- From a trusted peer, the named fields are used, and stay in the environ for applications that read them. Those of the
  five fields in ``FIELDS`` that weren't named are deleted. Forwarded and X-Forwarded-* can't be used together: a proxy
  writes one kind, and passes on the other kind from the client. So with any order of precedence, some proxy would let
  the client's fields win.
- Each proxy adds the address of its peer at the right. So the client is the first address from the right that isn't a
  trusted proxy. A client can only put addresses to the left of its own. ``"*"`` trusts every peer that connects, but no
  address in a field. Then the client is the last address, which the proxy added, and not the first, which a client can
  forge.
- Scheme and host are taken from the proxy that is known to have seen them. In Forwarded it is the one that saw the
  client, because each proxy adds an element. In a chain, some proxies set X-Forwarded-Proto, -Host and -Port and others
  don't. So their positions don't correspond, and the last value counts, which the nearest proxy set.
- A malformed element counts as absent, and so do all elements to its left. Then the client is the last proxy that could
  be read.

Sources: RFC 7239; for X-Forwarded-*, which has no standard, common practice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from fastwsgi._http.grammar import FIELD_VALUE, TCHAR, is_authority

if TYPE_CHECKING:
    from fastwsgi.types import WSGIEnvironment

#: The fields that can be trusted, and their environ keys.
FIELDS: Final = {
    "Forwarded": "HTTP_FORWARDED",
    "X-Forwarded-For": "HTTP_X_FORWARDED_FOR",
    "X-Forwarded-Proto": "HTTP_X_FORWARDED_PROTO",
    "X-Forwarded-Host": "HTTP_X_FORWARDED_HOST",
    "X-Forwarded-Port": "HTTP_X_FORWARDED_PORT",
}
#: The fields that nearly every proxy sets. Many pass on X-Forwarded-Host and X-Forwarded-Port from the client.
USUAL_FIELDS: Final = ("X-Forwarded-For", "X-Forwarded-Proto")

# The prefixes of environ keys for fields that only a proxy should set. X-Real-IP is another such field.
_CLAIMS: Final = ("HTTP_X_FORWARDED", "HTTP_FORWARDED")
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # RFC 6455 section 3: over HTTP
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_LONGEST_HOST: Final = 255 + len(":65535")  # RFC 1035 section 2.3.4

# RFC 7239 section 4:  forwarded-pair = token "=" value;  value = token / quoted-string
# The grammar has no white space around the semicolon, but some senders add it.
_PAIR: Final = re.compile(rf'[ \t]*([{TCHAR}]+)=(?:([{TCHAR}]+)|"((?:[^"\\]|\\[{FIELD_VALUE}])*)")[ \t]*(?:;|\Z)')
_EMPTY_PAIR: Final = re.compile(r"[ \t]*(?:;|\Z)")
# RFC 7239 section 6:  node = nodename [ ":" node-port ];  obfport = "_" 1*( ALPHA / DIGIT / "." / "_" / "-" )
# RFC 7239 puts an IPv6 address in brackets. X-Forwarded-For often has it without them, and then it has no port.
_NODE: Final = re.compile(
    r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\])(?::(?:([0-9]{1,5})|_[A-Za-z0-9._-]+))?|([0-9A-Fa-f:]+:[0-9A-Fa-f:.]+)"
)
_PORT: Final = re.compile(r":([0-9]*)\Z")


class Proxies:
    """The trusted peers, and the fields that are trusted from them.

    allow: addresses and networks of proxies, "unix" for every peer on a unix socket, "*" for all peers; fields: names
    from ``FIELDS`` that each of these proxies always sets or deletes, so that the client's own never pass; either
    "Forwarded" or others. Raises ValueError for an unknown entry, for a network with host bits set or of all addresses,
    and for fields of both kinds.
    """

    def __init__(self, allow: Sequence[str], fields: Sequence[str] = USUAL_FIELDS) -> None:
        for name, value in (("allow", allow), ("fields", fields)):
            if isinstance(value, str):
                raise ValueError(f"{name} is a sequence of strings, not one string: {value!r}")
        #: Whether any peer is trusted.
        self.trusts_anybody = bool(allow)
        self._trusts_all = "*" in allow
        self._trusts_unix = "unix" in allow
        self._networks = [_network(entry) for entry in allow if entry not in ("*", "unix")]
        #: Bounded, because clients may have any address.
        self._is_listed = lru_cache(maxsize=1024)(self._look_up)
        self._keys = _keys(fields)
        self._others = [key for key in FIELDS.values() if key not in self._keys]

    def trusts(self, address: str) -> bool:
        """Whether a peer is trusted. address: its IP address; "" for a peer on a unix socket."""
        if self._trusts_all:
            return True
        return self._is_listed(address) if address else self._trusts_unix

    def _look_up(self, address: str) -> bool:
        try:
            return self._is_in_network(_plain(ip_address(address)))
        except ValueError:
            return False

    def _is_in_network(self, address: IPv4Address | IPv6Address) -> bool:
        for network in self._networks:  # noqa: SIM110 - any() takes longer
            if address in network:
                return True
        return False

    @staticmethod
    def is_needed(environ: WSGIEnvironment) -> bool:
        """Whether an environ has a field that ``revise()`` would use or delete."""
        names = "\n".join(environ)  # one search is several times faster than one for each name
        return "HTTP_FORWARDED" in names or "HTTP_X_FORWARDED" in names or "HTTP_X_REAL_IP" in names

    def revise(self, environ: WSGIEnvironment) -> None:
        """Apply a trusted proxy's fields to an environ, and delete untrusted fields. Call it once for a request.

        environ: complete, with the peer's address in REMOTE_ADDR. REMOTE_ADDR and REMOTE_PORT ("" if unknown) are set
        to the client's. wsgi.url_scheme, HTTPS and HTTP_HOST are set to those that the client used. SERVER_NAME and
        SERVER_PORT are set to agree with them. A port in X-Forwarded-Port is added to a host without one. Never raises;
        takes time in proportion to the size of the fields.
        """
        if not self.is_needed(environ):
            return
        peer = environ.get("REMOTE_ADDR")
        if peer is None or not self.trusts(peer):
            for key in [key for key in environ if key.startswith(_CLAIMS)]:
                del environ[key]
            environ.pop("HTTP_X_REAL_IP", None)
            return
        for key in self._others:
            environ.pop(key, None)
        if "HTTP_FORWARDED" in environ:
            self._revise_by_forwarded(environ)
        else:
            self._revise_by_x_forwarded(environ)

    def _revise_by_forwarded(self, environ: WSGIEnvironment) -> None:
        said: dict[str, str] = {}
        for element in _from_the_right(environ["HTTP_FORWARDED"]):
            parameters = _parameters(element)
            if parameters is None:
                break
            said = parameters
            if not self._takes_node(environ, parameters.get("for", "")):
                break
        _set_server(environ, said.get("proto", ""), said.get("host", ""), "")

    def _revise_by_x_forwarded(self, environ: WSGIEnvironment) -> None:
        for element in _from_the_right(environ.get("HTTP_X_FORWARDED_FOR", "")):
            if not self._takes_node(environ, element):
                break
        _set_server(
            environ,
            _last(environ.get("HTTP_X_FORWARDED_PROTO", "")),
            _last(environ.get("HTTP_X_FORWARDED_HOST", "")),
            _last(environ.get("HTTP_X_FORWARDED_PORT", "")),
        )

    def _takes_node(self, environ: WSGIEnvironment, text: str) -> bool:
        """Set the client to a node if that is an address. Return whether it is a trusted proxy: then look further."""
        node = _node(text)
        if node is None:
            return False
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"], address = node
        return self._is_in_network(address)


# ---- the arguments -----------------------------------------------------------------------------------


def _network(entry: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(entry)
    except ValueError as error:
        raise ValueError(f'allow has {entry!r}, which is not an address, a network, "unix" or "*": {error}') from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            network = IPv4Network((mapped, network.prefixlen - 96))
    if not network.prefixlen:
        raise ValueError(f'allow has {entry!r}, a network of all addresses; use "*" instead')
    return network


def _keys(fields: Sequence[str]) -> set[str]:
    by_name = {name.lower(): key for name, key in FIELDS.items()}
    keys = set()
    for name in fields:
        if name.lower() not in by_name:
            raise ValueError(f"fields has {name!r}, which isn't one of {', '.join(FIELDS)}")
        keys.add(by_name[name.lower()])
    if "HTTP_FORWARDED" in keys and len(keys) > 1:
        raise ValueError(f"fields has both Forwarded and X-Forwarded-*, so a client could forge one: {fields!r}")
    return keys


# ---- the fields --------------------------------------------------------------------------------------


def _from_the_right(value: str) -> Iterator[str]:
    """The non-empty elements of a list, the last one first (RFC 9110 section 5.6.1).

    A comma always ends an element, even between quotes: no node, scheme or host has a comma, and an element that begins
    inside a quoted string lacks a quote and is malformed. Reading from the left would be unsafe: a quote that a client
    opens could swallow the elements that the proxy adds.
    """
    end = len(value)
    while end >= 0:
        comma = value.rfind(",", 0, end)
        element = value[comma + 1 : end].strip(" \t")
        if element:
            yield element
        end = comma


def _last(value: str) -> str:
    """The last element of a list, or "" if there is none."""
    if "," not in value:
        return value.strip(" \t")
    return next(_from_the_right(value), "")


def _parameters(element: str) -> dict[str, str] | None:
    """The parameters of an element of Forwarded by lower-case name, or None if the element is malformed."""
    parameters: dict[str, str] = {}
    position = 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is not None:
            name, token, quoted = pair.groups()
            if name.lower() in parameters:  # RFC 7239 section 4: at most once
                return None
            parameters[name.lower()] = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        else:
            pair = _EMPTY_PAIR.match(element, position)
            if pair is None:
                return None
        position = pair.end()
    return parameters


@lru_cache(maxsize=1024)  # bounded, because clients may have any address
def _node(text: str) -> tuple[str, str, IPv4Address | IPv6Address] | None:
    """Parse a node: the address as normalized text, the port, and the address object; None if it has no address."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None  # RFC 7239 sections 6.2 and 6.3: "unknown" or an obfuscated identifier
    ipv4, ipv6, port, bare_ipv6 = match.groups()
    try:
        address = _plain(IPv4Address(ipv4) if ipv4 else IPv6Address(ipv6 or bare_ipv6))
    except ValueError:
        return None
    return (str(address), port or "", address) if int(port or 0) <= 65535 else None


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address of an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2); any other address unchanged."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _set_server(environ: WSGIEnvironment, proto: str, host: str, port: str) -> None:
    """Set scheme, host and port, so that PEP 3333's "URL Reconstruction" yields the URL that the client used."""
    scheme = _SCHEMES.get(proto.lower(), "")
    host = host if _is_host(host) else ""
    port = port if _is_port(port) else ""
    if not (scheme or host or port):
        return
    if scheme:
        environ["wsgi.url_scheme"] = scheme
        if scheme == "https":
            environ["HTTPS"] = "on"
        else:
            environ.pop("HTTPS", None)
    default = _DEFAULT_PORTS.get(scheme or environ.get("wsgi.url_scheme", ""), "80")
    if host:
        environ["HTTP_HOST"] = host
        environ["SERVER_NAME"] = _PORT.sub("", host)
    authority = environ.get("HTTP_HOST", "")
    own = _PORT.search(authority)
    if own is not None:
        port = own[1] if _is_port(own[1]) else ""
    elif authority and port and port != default:
        environ["HTTP_HOST"] = f"{authority}:{port}"
    environ["SERVER_PORT"] = port or default


def _is_host(text: str) -> bool:
    """Whether a text is a valid Host value (RFC 9110 section 7.2)."""
    if not text or len(text) > _LONGEST_HOST or not is_authority(text):
        return False
    port = _PORT.search(text)
    return port is None or not port[1] or _is_port(port[1])


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535
