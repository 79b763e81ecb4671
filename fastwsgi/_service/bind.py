"""Open listening sockets from their text form: TCP, unix, inherited. Notify systemd, which may have opened them."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import re
import socket
import stat
from collections.abc import Generator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, TypeAlias

_log = logging.getLogger("fastwsgi")

_DEFAULT = "127.0.0.1:8000"
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_TCP = re.compile(rf"(?:\[([0-9A-Fa-f:.]+(?:%[0-9A-Za-z._~-]+)?)\]|([^\[\]:]*)):{_NUMBER}")
_UNIX = re.compile(r"unix:([^?\0]+)(?:\?mode=0?([0-7]{3}))?")
_FD = re.compile(rf"fd:{_NUMBER}")
# RFC 1123 section 2.1, and the underscore, which host names inside a network often have.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
# The system's functions accept 127.1 and 0x7f.1 as IPv4 addresses, so a mistyped address would pass as another one.
_LIKE_A_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")

# sd_listen_fds(3): the first descriptor, and the variables that describe the descriptors.
_FIRST_FD = 3
_LISTEN_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class TcpAddress(NamedTuple):
    """A host, by name or address, and a port; 0 is any free port."""

    host: str
    port: int


class UnixAddress(NamedTuple):
    """A path in the file system, and the mode of the socket there; None: the umask decides."""

    path: str
    mode: int | None


class Inherited(NamedTuple):
    """The number of a file descriptor that another program opened."""

    fd: int


Address: TypeAlias = TcpAddress | UnixAddress | Inherited


def parse_bind(text: str) -> Address:
    """Return what ``HOST:PORT``, ``[IPV6]:PORT``, ``:PORT``, ``unix:PATH``, ``unix:PATH?mode=660`` or ``fd:N`` means.

    ``:PORT`` is all IPv4 interfaces, as for make_server(). ``[::]:PORT`` is all IPv6 interfaces, and IPv4 ones too if
    the system is configured so. The mode is octal.

    Raises ValueError for anything else. That includes a host or a port alone, which could be mistaken for each other,
    and a path that contains "?" or begins with "@".
    """
    if text.startswith("unix:"):
        match = _UNIX.fullmatch(text)
        if match is None or match[1].startswith("@"):
            raise ValueError(f"bind {text!r} isn't unix:PATH or unix:PATH?mode=660, with an octal mode")
        return UnixAddress(match[1], None if match[2] is None else int(match[2], 8))
    if text.startswith("fd:"):
        match = _FD.fullmatch(text)
        if match is None:
            raise ValueError(f"bind {text!r} isn't fd:N, where N is the number of a file descriptor")
        return Inherited(int(match[1]))
    match = _TCP.fullmatch(text)
    if match is None:
        raise ValueError(f"bind {text!r} isn't HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH or fd:N")
    literal, name, port = match[1], match[2], int(match[3])
    if port > 65535:
        raise ValueError(f"bind {text!r} has a port above 65535")
    if literal is not None and not _is_address(literal, ipaddress.IPv6Address):
        raise ValueError(f"bind {text!r} has no IPv6 address in its brackets")
    if name and not (
        _is_address(name, ipaddress.IPv4Address) if _LIKE_A_NUMBER.fullmatch(name) else _NAME.fullmatch(name)
    ):
        raise ValueError(f"bind {text!r} has a host that is neither a name nor an address")
    return TcpAddress(literal or name or "0.0.0.0", port)


def _is_address(text: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


class Listener:
    """One listening socket.

    sock: the socket; may be replaced by a TLS socket around it; scheme: "http" or "https", for the URL; is_inherited:
    whether another process may continue to accept on it; path: of the unix socket, if this process created one.
    """

    def __init__(
        self, sock: socket.socket, *, scheme: str = "http", is_inherited: bool = False, path: str | None = None
    ) -> None:
        self.sock = sock
        self.scheme = scheme
        self.is_inherited = is_inherited
        self._authority, self._name = _place(sock)
        self._path = path
        self._file = None if path is None else _identity(os.lstat(path))
        self._pid = os.getpid()

    @property
    def url(self) -> str:
        """Where it listens: "http://127.0.0.1:8000/", "http://[::1]:80/" or "unix:/path"."""
        return self._name if self._authority is None else f"{self.scheme}://{self._authority}/"

    def close(self) -> None:
        """Close the socket; remove the file of a unix socket if it is still the one that this process created."""
        path, self._path = self._path, None
        if path is not None and os.getpid() == self._pid:
            # While it still listens: then no other process takes the file for a stale one, and the inode number isn't
            # reused yet.
            with contextlib.suppress(OSError):
                if _identity(os.lstat(path)) == self._file:
                    os.unlink(path)
        self.sock.close()


def _place(sock: socket.socket) -> tuple[str | None, str]:
    """The authority of a TCP socket's URL, or None and the URL of a unix socket."""
    address: Any = sock.getsockname()
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}", ""
    name = os.fsdecode(address)
    return None, "unix:" + ("@" + name[1:] if name.startswith("\0") else name)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def open_listeners(
    binds: Sequence[str],
    *,
    reuse_port: bool = False,
    backlog: int = 1024,
    scheme: str = "http",
    environ: MutableMapping[str, str] = os.environ,
) -> list[Listener]:
    """Open a listening socket for each text, in the form of ``parse_bind()``; child processes don't inherit them.

    binds: the texts. Without any, the sockets that systemd passes through the variables of sd_listen_fds(3), which are
    then removed from environ; else 127.0.0.1:8000. reuse_port: whether other processes may listen on the same TCP ports
    at the same time. backlog: how many connections may wait to be accepted. scheme: for the URLs.

    If a host name has several addresses, the first one is used. The file of a unix socket is replaced if no process
    listens on it any more; meanwhile a lock file exists in its directory. An inherited socket is taken over. It is
    closed, too, if another socket can't be opened.

    Raises ValueError for bad text, for an inherited descriptor that isn't a listening stream socket, and for anything
    that the platform doesn't support; OSError, with the text in its message, if a socket can't be opened.
    """
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port must be False: this platform has no SO_REUSEPORT")
    if backlog < 1:
        raise ValueError(f"backlog must be at least 1, not {backlog!r}")
    texts = list(binds) or _handed_over(environ) or [_DEFAULT]
    addresses = [parse_bind(text) for text in texts]
    for text, address in zip(texts, addresses, strict=True):
        if isinstance(address, Inherited) and addresses.count(address) > 1:
            raise ValueError(f"bind {text!r} is given twice")
    with contextlib.ExitStack() as opened:
        listeners = []
        for text, address in zip(texts, addresses, strict=True):
            try:
                listener = _open(address, reuse_port, backlog)
            except OSError as error:
                raise _with_text(text, error) from error
            opened.callback(listener.close)
            listener.scheme = scheme
            listeners.append(listener)
        opened.pop_all()
        return listeners


def _handed_over(environ: MutableMapping[str, str]) -> list[str]:
    """sd_listen_fds(3): the sockets that were opened for this process, if there are any."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environ.get("LISTEN_FDS", "")
    for name in _LISTEN_VARIABLES:
        environ.pop(name, None)
    if re.fullmatch("[0-9]{1,4}", count) is None:
        raise ValueError(f"LISTEN_FDS must be a number of descriptors, not {count!r}")
    return [f"fd:{_FIRST_FD + i}" for i in range(int(count))]


def _with_text(text: str, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    if error.filename is not None:
        reason += f": {error.filename}"
    message = f"can't bind to {text}: {reason}"
    if error.errno is None or isinstance(error, socket.gaierror):  # its error numbers are a different set
        return OSError(message)
    return OSError(error.errno, message)


def _open(address: Address, reuse_port: bool, backlog: int) -> Listener:
    if isinstance(address, TcpAddress):
        return Listener(_open_tcp(address, reuse_port, backlog))
    if isinstance(address, UnixAddress):
        return _open_unix(os.path.abspath(address.path), address.mode, backlog)
    return Listener(_take_over(address.fd), is_inherited=True)


def _open_tcp(address: TcpAddress, reuse_port: bool, backlog: int) -> socket.socket:
    # As bytes; a str would be encoded by the older standard for internationalised names.
    found = socket.getaddrinfo(address.host.encode("ascii"), address.port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, place = found[0]
    with _closed_on_error(socket.socket(family, kind, protocol)) as sock:
        # On Windows SO_REUSEADDR would let another program take over the port.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if exclusive is None else exclusive, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(place)
        sock.listen(backlog)
    return sock


@contextlib.contextmanager
def _closed_on_error(sock: socket.socket) -> Generator[socket.socket]:
    try:
        yield sock
    except BaseException:
        sock.close()
        raise


def _open_unix(path: str, mode: int | None, backlog: int) -> Listener:
    if not hasattr(socket, "AF_UNIX"):
        raise ValueError(f"bind 'unix:{path}' needs a platform with unix sockets")
    with _alone(path), _closed_on_error(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        if _is_left_over(path):
            os.unlink(path)
        sock.bind(path)  # fails if a file has appeared since
        try:
            # Whatever mode the umask gave it: until the socket listens, no client can connect.
            if mode is not None:
                os.chmod(path, mode)
            sock.listen(backlog)
            return Listener(sock, path=path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            raise


@contextlib.contextmanager
def _alone(path: str) -> Generator[None]:
    """Let one process at a time check whether a path is free, and take it.

    Without this, two processes that start at once could both find a stale socket, and the second one would then remove
    the socket of the first.
    """
    import fcntl

    directory, name = os.path.split(path)
    lock = os.path.join(directory, f".{name}.fastwsgi-lock")
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            # The previous owner may have removed the file. Then this lock is useless, and there may be another file.
            try:
                is_there = _identity(os.stat(lock)) == _identity(os.fstat(fd))
            except FileNotFoundError:
                is_there = False
            if is_there:
                try:
                    yield
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(lock)
                return
        finally:
            os.close(fd)


def _is_left_over(path: str) -> bool:
    """Return True for a socket that no process listens on, False for no file; raise OSError for anything else."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a process that is slow to accept is still listening
        try:
            outcome = probe.connect_ex(path)
        except OSError as error:
            size = len(os.fsencode(path))
            raise OSError(errno.ENAMETOOLONG, f"{path} is too long for a unix socket: {size} bytes") from error
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EEXIST, "there is a file that isn't a socket")
    if outcome in (0, errno.EAGAIN, errno.EINPROGRESS):
        raise OSError(errno.EADDRINUSE, "another process is already listening there")
    if outcome != errno.ECONNREFUSED:
        raise OSError(outcome, os.strerror(outcome))
    return True


def _take_over(fd: int) -> socket.socket:
    wrong = ValueError(f"bind 'fd:{fd}' must be a listening TCP or unix stream socket")
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise wrong from error
    families = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None)}
    if sock.family not in families or sock.type != socket.SOCK_STREAM or not _is_listening(sock):
        sock.detach()  # it isn't ours to close
        raise wrong
    sock.set_inheritable(False)
    return sock


def _is_listening(sock: socket.socket) -> bool:
    option = getattr(socket, "SO_ACCEPTCONN", None)
    return option is None or bool(sock.getsockopt(socket.SOL_SOCKET, option))


def notify_systemd(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send systemd a state such as "READY=1", as sd_notify(3) does. Do nothing if NOTIFY_SOCKET isn't set.

    environ: NOTIFY_SOCKET in it is a path, or "@" and a name in the abstract namespace. If the message can't be sent, a
    warning is logged, and the server continues.
    """
    place = environ.get("NOTIFY_SOCKET", "")
    if not place:
        return
    try:
        if place[0] not in "/@" or not hasattr(socket, "AF_UNIX"):
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.sendto(state.encode(), "\0" + place[1:] if place[0] == "@" else place)
    except OSError as error:
        _log.warning("Can't send %s to NOTIFY_SOCKET %s: %s", state, place, error)
