"""What a trusted proxy says of a request: who sent it, over which scheme, to which host.

A field looks the same whether a proxy has written it or passed on what a client sent. So two things have to be said
by who sets up the server: which peers are proxies, and which fields they set. All else is the client's word, and is
not believed:

- A peer that isn't trusted: all fields whose names begin with Forwarded or X-Forwarded, and X-Real-IP, are deleted, so
  that no application takes them for a proxy's. (What vendors call their own, only an application knows that reads it.)
- A trusted peer: the fields that were named are used, and stay as they came for applications that read them. Of the
  five that could have been named, the others are deleted. Forwarded and X-Forwarded-* aren't used together: a proxy
  writes one kind, and passes on the other that a client sent. Whichever kind were to win, there are proxies with which
  it would be the client's; and if neither did, a client that sends both could pass for the proxy.
- The client is found from the right, where each proxy adds whom it saw: the first that isn't a trusted proxy. A client
  can put addresses to the left of its own only. ``"*"`` trusts who connects, and nobody in a field: so the client is
  the last one there, whom that proxy saw, and not the first, which anybody can write.
- Scheme and host are of the proxy that is known to have seen them. In Forwarded that is the one that saw the client,
  for each proxy adds an element. X-Forwarded-Proto, -Host and -Port are set by some proxies of a chain and not by
  others, so their places don't correspond, and the last value counts, as the nearest proxy left it.
- What is malformed, is absent, and so is all to its left: the client is then the last proxy that could be read.

Sources: RFC 7239; for X-Forwarded-*, which have none, common practice.
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

#: What may be believed, and its environ key.
FIELDS: Final = {
    "Forwarded": "HTTP_FORWARDED",
    "X-Forwarded-For": "HTTP_X_FORWARDED_FOR",
    "X-Forwarded-Proto": "HTTP_X_FORWARDED_PROTO",
    "X-Forwarded-Host": "HTTP_X_FORWARDED_HOST",
    "X-Forwarded-Port": "HTTP_X_FORWARDED_PORT",
}
#: What nearly every proxy sets. Many leave X-Forwarded-Host and X-Forwarded-Port as a client sent them.
USUAL_FIELDS: Final = ("X-Forwarded-For", "X-Forwarded-Proto")

# How the environ keys of fields begin that only a proxy should set; X-Real-IP is another one.
_CLAIMS: Final = ("HTTP_X_FORWARDED", "HTTP_FORWARDED")
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # RFC 6455 section 3: over HTTP
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_LONGEST_HOST: Final = 255 + len(":65535")  # RFC 1035 section 2.3.4

# RFC 7239 section 4:  forwarded-pair = token "=" value;  value = token / quoted-string
# White space around the semicolon isn't in the grammar, but in fields that are sent.
_PAIR: Final = re.compile(rf'[ \t]*([{TCHAR}]+)=(?:([{TCHAR}]+)|"((?:[^"\\]|\\[{FIELD_VALUE}])*)")[ \t]*(?:;|\Z)')
_EMPTY_PAIR: Final = re.compile(r"[ \t]*(?:;|\Z)")
# RFC 7239 section 6:  node = nodename [ ":" node-port ];  obfport = "_" 1*( ALPHA / DIGIT / "." / "_" / "-" )
# An IPv6 address is in brackets there, and often isn't in X-Forwarded-For; without them it has no port.
_NODE: Final = re.compile(
    r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\])(?::(?:([0-9]{1,5})|_[A-Za-z0-9._-]+))?|([0-9A-Fa-f:]+:[0-9A-Fa-f:.]+)"
)
_PORT: Final = re.compile(r":([0-9]*)\Z")


class Proxies:
    """Which peers are believed, and what.

    allow: addresses and networks of proxies, "unix" for whoever connects to a unix socket, "*" for all peers; fields:
    names from ``FIELDS``, those that each of these proxies sets or deletes, whatever a client sends; either
    "Forwarded" or others. Raises ValueError for an entry that is none of these, a network with host bits set or of
    all addresses, and for fields of both kinds.
    """

    def __init__(self, allow: Sequence[str], fields: Sequence[str] = USUAL_FIELDS) -> None:
        for name, value in (("allow", allow), ("fields", fields)):
            if isinstance(value, str):
                raise ValueError(f"{name} is a sequence of strings, not one string: {value!r}")
        #: Whether there is any peer that is believed.
        self.trusts_anybody = bool(allow)
        self._trusts_all = "*" in allow
        self._trusts_unix = "unix" in allow
        self._networks = [_network(entry) for entry in allow if entry not in ("*", "unix")]
        #: Bounded, for a client may come from anywhere.
        self._is_listed = lru_cache(maxsize=1024)(self._look_up)
        self._keys = _keys(fields)
        self._others = [key for key in FIELDS.values() if key not in self._keys]

    def trusts(self, address: str) -> bool:
        """Whether a peer is believed. address: its IP address; "" for one on a unix socket."""
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
        """Whether there is a field in an environ that ``revise()`` would look at."""
        names = "\n".join(environ)  # one search is several times faster than one for each name
        return "HTTP_FORWARDED" in names or "HTTP_X_FORWARDED" in names or "HTTP_X_REAL_IP" in names

    def revise(self, environ: WSGIEnvironment) -> None:
        """Change a finished environ by what a trusted proxy says in it, or delete what isn't believed; once only.

        environ: of a request, with its peer in REMOTE_ADDR. REMOTE_ADDR and REMOTE_PORT ("" if it isn't known) become
        the client's; wsgi.url_scheme, HTTPS and HTTP_HOST what the client used, and SERVER_NAME and SERVER_PORT agree
        with them. A port of X-Forwarded-Port is added to a host that has none. Never raises; takes time in proportion
        to the fields.
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
        """Make a node the client, if it's an address; return whether it's a proxy, and tells who is behind it."""
        node = _node(text)
        if node is None:
            return False
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"], address = node
        return self._is_in_network(address)


# ---- what is allowed ---------------------------------------------------------------------------------


def _network(entry: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(entry)
    except ValueError as error:
        raise ValueError(f'allow has {entry!r}, which is no address, network, "unix" or "*": {error}') from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            network = IPv4Network((mapped, network.prefixlen - 96))
    if not network.prefixlen:
        raise ValueError(f'allow has {entry!r}, a network of all addresses, for which the word is "*"')
    return network


def _keys(fields: Sequence[str]) -> set[str]:
    by_name = {name.lower(): key for name, key in FIELDS.items()}
    keys = set()
    for name in fields:
        if name.lower() not in by_name:
            raise ValueError(f"fields has {name!r}, which is none of {', '.join(FIELDS)}")
        keys.add(by_name[name.lower()])
    if "HTTP_FORWARDED" in keys and len(keys) > 1:
        raise ValueError(f"fields has both Forwarded and X-Forwarded-*, of which a client could send one: {fields!r}")
    return keys


# ---- what is said ------------------------------------------------------------------------------------


def _from_the_right(value: str) -> Iterator[str]:
    """The elements of a list, the last one first, without the empty ones (RFC 9110 section 5.6.1).

    A comma always ends an element, in quotes, too: neither node nor scheme nor host has one, and what begins in the
    midst of a quoted string has one quote too few to be an element. Read from the left, a quote that a client opens
    would swallow what the proxy adds.
    """
    end = len(value)
    while end >= 0:
        comma = value.rfind(",", 0, end)
        element = value[comma + 1 : end].strip(" \t")
        if element:
            yield element
        end = comma


def _last(value: str) -> str:
    """The last element of a list, "" if there is none."""
    if "," not in value:
        return value.strip(" \t")
    return next(_from_the_right(value), "")


def _parameters(element: str) -> dict[str, str] | None:
    """The parameters of an element of Forwarded by their names in lower case; None if it's malformed."""
    parameters: dict[str, str] = {}
    position = 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is not None:
            name, token, quoted = pair.groups()
            if name.lower() in parameters:  # RFC 7239 section 4: not more than once
                return None
            parameters[name.lower()] = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        else:
            pair = _EMPTY_PAIR.match(element, position)
            if pair is None:
                return None
        position = pair.end()
    return parameters


@lru_cache(maxsize=1024)  # bounded, for a client may come from anywhere
def _node(text: str) -> tuple[str, str, IPv4Address | IPv6Address] | None:
    """The address and port of a node, in the one form that an address has, or None if it has none; and the address."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None  # RFC 7239 sections 6.2 and 6.3: or "unknown", or an obfuscated identifier
    ipv4, ipv6, port, bare_ipv6 = match.groups()
    try:
        address = _plain(IPv4Address(ipv4) if ipv4 else IPv6Address(ipv6 or bare_ipv6))
    except ValueError:
        return None
    return (str(address), port or "", address) if int(port or 0) <= 65535 else None


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An address, or the IPv4 address that is mapped to it (RFC 4291 section 2.5.5.2)."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _set_server(environ: WSGIEnvironment, proto: str, host: str, port: str) -> None:
    """Set scheme, host and port, so that PEP 3333's "URL Reconstruction" gives what the client asked for."""
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
    """RFC 9110 section 7.2."""
    if not text or len(text) > _LONGEST_HOST or not is_authority(text):
        return False
    port = _PORT.search(text)
    return port is None or not port[1] or _is_port(port[1])


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535
