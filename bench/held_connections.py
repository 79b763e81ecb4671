"""Hold connections open, idle or slow, in a process of their own, while others are measured."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection

from fastwsgi.bench.load import pin
from fastwsgi.bench.results import FailureError

SPARE_DESCRIPTORS = 200  # for a server's own, and for the load's connections
OCTET_EVERY = 10.0  # seconds, for each slow connection: often enough for any server to wait for the rest
PATIENCE = 60.0

#: What each connection of a crowd sends when it has connected, and whether that is a whole request.
KINDS = {
    "idle": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", True),
    "silent": (b"", False),
    "slow": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", False),
}


def allow_descriptors(wanted: int) -> int:
    """Let this process, and what it starts, have so many descriptors if that is allowed; how many they may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        most = max(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # only root may have more than the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            return wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def hold(pipe: Connection, port: int, count: int, kind: str, is_replaced: bool) -> None:
    """Be the crowd, in a process of its own: say when all are there, keep on until asked how many still are."""
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
        # A few at a time, so that the octets are spread over time and not the load of a moment.
        turns = int(OCTET_EVERY * 50)
        turn = 0
        while not pipe.poll(OCTET_EVERY / turns):
            for client in clients[turn::turns]:
                with contextlib.suppress(OSError):  # closed, as will be counted
                    client.send(b"x")
            turn = (turn + 1) % turns
    pipe.send(sum(map(is_open, clients)))


def is_open(client: socket.socket) -> bool:
    """Whether a server has neither closed a connection nor answered on it, where it had nothing to answer."""
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def crowd(port: int, count: int, kind: str, *, is_replaced: bool = False) -> Iterator[None]:
    """Hold so many connections to a server. Raises FailureError if it didn't take them, or closed some.

    is_replaced: others are made for those that it closes, which are then no failure.
    """
    # Not a fork: the load's and the servers' descriptors are none of its business.
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
    """The next number that the crowd says."""
    try:
        if pipe.poll(PATIENCE):
            return int(pipe.recv())
    except EOFError:
        pass
    raise FailureError("the connections can't be made")
