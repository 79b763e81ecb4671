"""Hold connections open, idle or slow, in a separate process, while other requests are measured."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection

from fastwsgi.bench.load import pin
from fastwsgi.bench.results import FailureError

SPARE_DESCRIPTORS = 200  # for the server's other descriptors, and the connections of the load
OCTET_EVERY = 10.0  # seconds between two octets of a slow connection: short enough for the timeouts of all servers
PATIENCE = 60.0

#: The octets that each connection of a crowd sends first, and whether they are a complete request.
KINDS = {
    "idle": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", True),
    "silent": (b"", False),
    "slow": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", False),
}


def allow_descriptors(wanted: int) -> int:
    """Raise the limit of descriptors for this process and its children as far as allowed; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        most = max(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # only root may raise the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            return wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def hold(pipe: Connection, port: int, count: int, kind: str, is_replaced: bool) -> None:
    """Hold the connections, as a program: print when all are open, and at the end how many still are."""
    pin(0)
    greeting, is_whole = KINDS[kind]

    def connect() -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), PATIENCE)
        client.sendall(greeting)
        if is_whole:
            answer = b""
            while not answer.endswith(b"Hello, world!"):
                answer += client.recv(4096) or b"closed\r\nHello, world!"
        client.setblocking(False)
        return client

    clients = [connect() for _ in range(count)]
    pipe.send(count)
    if is_replaced:
        while not pipe.poll(1):
            clients = [client if is_open(client) else connect() for client in clients]
    elif kind != "slow":
        pipe.poll(None)
    else:
        # A few at a time, so that the octets are spread over time.
        turns = int(OCTET_EVERY * 50)
        turn = 0
        while not pipe.poll(OCTET_EVERY / turns):
            for client in clients[turn::turns]:
                with contextlib.suppress(OSError):  # closed; it will be counted at the end
                    client.send(b"x")
            turn = (turn + 1) % turns
    pipe.send(sum(map(is_open, clients)))


def is_open(client: socket.socket) -> bool:
    """Whether a server has neither closed a connection nor sent anything on it without a request."""
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def crowd(port: int, count: int, kind: str, *, is_replaced: bool = False) -> Iterator[None]:
    """Hold connections to a server. Raises FailureError if it didn't accept all of them, or closed some.

    is_replaced: whether to open a new connection for each that the server closes; then that isn't a failure.
    """
    # Not a fork, because it must not inherit the descriptors of the load and the servers.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(theirs, port, count, kind, is_replaced), daemon=True)
    process.start()
    theirs.close()
    try:
        answer(ours)
        yield
        ours.send(None)
        left = answer(ours)
        if left != count and not is_replaced:
            raise FailureError(f"{count - left} of {count} connections were closed, or answered")
    finally:
        process.kill()
        process.join()
        ours.close()


def answer(pipe: Connection) -> int:
    """The next number that the crowd prints."""
    try:
        if pipe.poll(PATIENCE):
            return int(pipe.recv())
    except EOFError:
        pass
    raise FailureError("the connections can't be made")
