"""A client without dependencies. It uses many connections; each sends a request as soon as it has the last response.

    python -m fastwsgi.bench.client PORT CONNECTIONS SECONDS < requests

It sends the requests in turn; between two there is a NUL octet. It writes its results as one line of JSON. The first
response is considered correct. Every later response must be equal, byte by byte, except for its date.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import re
import selectors
import socket
import sys
import time
from collections.abc import Iterator

PATIENCE = 10.0  # seconds without any response
RECEIVE_SIZE = 1 << 18
BETWEEN = b"\0"
DATE = re.compile(rb"(?i)\r\nDate: *([^\r]+)")
LENGTH = re.compile(rb"(?i)\r\nContent-Length: *(\d+)")
CHUNKED = re.compile(rb"(?i)\r\nTransfer-Encoding: *chunked")


class Answer:
    """The expected response: the bytes before and after the date, and whether the server closes the connection."""

    start: int
    end: int
    before: bytes
    after: bytes

    def __init__(self, octets: bytes, closes: bool) -> None:
        date = DATE.search(octets)
        self.start, self.end = date.span(1) if date else (0, 0)
        self.before, self.after = octets[: self.start], octets[self.end :]
        self.size: int = len(octets)
        self.closes = closes

    def equals(self, octets: bytes) -> bool:
        return octets[: self.start] == self.before and octets[self.end :] == self.after


def first_answer(port: int, request: bytes) -> Answer:
    """Send one request; find out where the response ends, and whether the server then closes the connection."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(request)
        octets = b""
        while not is_whole(octets):
            received = client.recv(RECEIVE_SIZE)
            if not received:
                break
            octets += received
        if not octets.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            raise ValueError(f"not a response with status 200: {octets[:80]!r}")
        head = octets.partition(b"\r\n\r\n")[0].lower()
        keeps = head.startswith(b"http/1.1") and b"\r\nconnection: close" not in head and is_whole(octets)
        return Answer(octets, not keeps)


def is_whole(octets: bytes) -> bool:
    head, end, body = octets.partition(b"\r\n\r\n")
    if not end:
        return False
    if length := LENGTH.search(head):
        return len(body) >= int(length[1])
    return bool(CHUNKED.search(head)) and body.endswith(b"0\r\n\r\n")


class Client:
    """Send requests over many connections, one at a time on each; several requests take turns."""

    def __init__(self, port: int, *requests: bytes) -> None:
        self.port = port
        self.requests: Iterator[bytes] = itertools.cycle(requests)
        self.answer: Answer = first_answer(port, requests[0])
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self.latencies: list[float] = []
        self.failures: list[str] = []

    def run(self, connections: int, seconds: float) -> None:
        """Collect the latencies, in seconds, until the time is over or something fails."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.selector)
            stack.callback(self.close_all)
            for _ in range(connections):
                self.connect()
            self.ask(seconds)

    def close_all(self) -> None:
        for key in list(self.selector.get_map().values()):
            key.data.client.close()

    def ask(self, seconds: float) -> None:
        clock, select, latencies, answer = time.perf_counter, self.selector.select, self.latencies, self.answer
        size, closes = answer.size, answer.closes
        end = clock() + seconds
        while (now := clock()) < end and not self.failures:
            ready = select(min(PATIENCE, end - now))
            if not ready and clock() < end:
                self.failures.append(f"no answer for {PATIENCE:g} s")
            for key, _ in ready:
                client, exchange = key.data.client, key.data
                if exchange.is_connecting:
                    self.connected(exchange)
                    continue
                try:
                    received = client.recv(RECEIVE_SIZE)
                except OSError as error:
                    self.failures.append(f"receiving: {error}")
                    break
                octets = exchange.received + received
                if received and len(octets) < size:
                    exchange.received = octets
                    continue
                if len(octets) != size or not answer.equals(octets):
                    self.failures.append(f"a different answer: {octets[:200]!r}")
                    break
                now = clock()
                latencies.append(now - exchange.started)
                if closes:
                    self.selector.unregister(client)
                    client.close()
                    self.connect()
                    continue
                exchange.received = b""
                exchange.started = now
                self.send_request(client)

    def connect(self) -> None:
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failure = client.connect_ex(("127.0.0.1", self.port))
        if failure not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            self.failures.append(f"connecting: {errno.errorcode.get(failure, failure)}")
        self.selector.register(client, selectors.EVENT_WRITE, Exchange(client, time.perf_counter()))

    def connected(self, exchange: Exchange) -> None:
        client = exchange.client
        failure = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self.failures.append(f"connecting: {errno.errorcode.get(failure, failure)}")
            return
        exchange.is_connecting = False
        self.selector.modify(client, selectors.EVENT_READ, exchange)
        self.send_request(client)

    def send_request(self, client: socket.socket) -> None:
        request = next(self.requests)
        if client.send(request) != len(request):
            self.failures.append("the request couldn't be sent completely")


class Exchange:
    """A pending request, and the part of its response received so far."""

    __slots__ = ("client", "is_connecting", "received", "started")

    def __init__(self, client: socket.socket, started: float) -> None:
        self.client: socket.socket = client
        self.started: float = started
        self.received: bytes = b""
        self.is_connecting: bool = True


def main(port: str, connections: str, seconds: str) -> None:
    requests = sys.stdin.buffer.read().split(BETWEEN)
    failures: list[str] = []
    latencies: list[float] = []
    started, cpu = time.perf_counter(), time.process_time()
    try:
        client = Client(int(port), *requests)
        started, cpu = time.perf_counter(), time.process_time()
        client.run(int(connections), float(seconds))
        latencies, failures = sorted(client.latencies), client.failures
    except (OSError, ValueError) as error:
        failures = [str(error)]
    duration, cpu = time.perf_counter() - started, time.process_time() - cpu
    at = {f"p{part:g}": latencies[int(len(latencies) * part / 100)] * 1e6 for part in (50, 99)} if latencies else {}
    print(json.dumps({"requests": len(latencies), "duration": duration, "busy": cpu / duration,
                      "failures": failures, **at}))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
