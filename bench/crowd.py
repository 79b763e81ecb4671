"""What a crowd of connections costs: those that say nothing, and those whose request comes an octet at a time.

    python -m bench.crowd [--connections N] [--seconds N] [--rounds N] [--kind NAME ...] [--threads N ...]
                          [--pure] [--json FILE]

Two equal servers run, one of them with the crowd, and are loaded in turn by the same requests. Printed is the
throughput of the one as a part of the other's, round by round; and the CPU time that the crowd takes while nobody
else asks. A request that fails, or a member of the crowd that the server has closed, makes the exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from bench.servers import WORKLOADS, FailureError, cpu_times, measure, number, pin, serving, spread

SPARE_DESCRIPTORS = 200  # for a server's own, and for the load's connections
IDLE_SECONDS = 5
OCTET_EVERY = 10.0  # seconds, for each slow connection: often enough for any server to wait for the rest
PATIENCE = 60.0

#: What each connection of a crowd sends when it has connected, and whether that is a whole request.
KINDS = {
    "idle": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", True),
    "slow": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", False),
}
# For both servers, so that the crowd is a crowd to the end, and does what it does by itself and not by timeouts.
SETTINGS = {
    "FASTWSGI_MAX_CONNECTIONS": "1000000",
    "FASTWSGI_HEAD_TIMEOUT": "3600",
    "FASTWSGI_KEEP_ALIVE_TIMEOUT": "3600",
}
# The bounds of the design.
LEAST_RATIO, MOST_CPU_MS = 0.8, 50


@dataclass(frozen=True)
class Result:
    """A server with a crowd, and one without, in each round; CPU milliseconds of each in the idle seconds."""

    server: str
    kind: str
    connections: int
    alone: list[float]
    crowded: list[float]
    cpu_alone: float
    cpu_crowded: float

    @property
    def ratios(self) -> list[float]:
        return [crowded / alone for crowded, alone in zip(self.crowded, self.alone, strict=True)]


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


def hold(pipe: Connection, port: int, count: int, kind: str) -> None:
    """Be the crowd, in a process of its own: say when all are there, keep on until asked how many still are."""
    pin(0)
    greeting, is_whole = KINDS[kind]
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port), PATIENCE)
        client.sendall(greeting)
        if is_whole:
            answer = b""
            while not answer.endswith(b"Hello, world!"):
                answer += client.recv(4096) or b"closed\r\nHello, world!"
        client.setblocking(False)
        clients.append(client)
    pipe.send(count)
    if is_whole:
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
def crowd(port: int, count: int, kind: str) -> Iterator[None]:
    """Hold so many connections to a server. Raises FailureError if it didn't take them, or closed some."""
    # Not a fork: the load's and the servers' descriptors are none of its business.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(theirs, port, count, kind), daemon=True)
    process.start()
    theirs.close()
    try:
        answer(ours)
        yield
        ours.send(None)
        left = answer(ours)
        if left != count:
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


def idle_cpu(pid: int) -> float:
    """The CPU time that a process takes in the idle seconds, in milliseconds."""
    before = sum(cpu_times(pid))
    time.sleep(IDLE_SECONDS)
    return (sum(cpu_times(pid)) - before) * 1000


def compare(server: str, kind: str, count: int, rounds: int, seconds: int) -> Result:
    """Load a server with a crowd and one without, in turn."""
    workload = WORKLOADS["hello"]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        alone = stack.enter_context(serving(server, workload, scratch))
        crowded = stack.enter_context(serving(server, workload, scratch))
        stack.enter_context(crowd(crowded[1], count, kind))
        rates: dict[tuple[int, int], list[float]] = {alone: [], crowded: []}
        for turn in range(rounds):
            # Not always the same one first.
            for each in sorted(rates, reverse=bool(turn % 2)):
                rates[each].append(measure(*each, workload, seconds, scratch).rate)
        cpu_alone, cpu_crowded = idle_cpu(alone[0]), idle_cpu(crowded[0])
    return Result(server, kind, count, rates[alone], rates[crowded], cpu_alone, cpu_crowded)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=10_000, help="in the crowd")
    parser.add_argument("--seconds", type=int, default=3, help="of load, for each of the two in each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME", help=", ".join(KINDS))
    parser.add_argument("--threads", nargs="+", type=int, choices=(1, 4), default=[1, 4], metavar="N", help="1, 4")
    parser.add_argument("--pure", action="store_true", help="of the pure twin")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to this file too")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is needed; see bench/README.md")
    count = min(options.connections, allow_descriptors(options.connections + SPARE_DESCRIPTORS) - SPARE_DESCRIPTORS)
    if count < options.connections:
        print(f"only {count} connections: the system allows no more descriptors")
    os.environ.update(SETTINGS)

    setting = f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, "
    setting += f"{count} connections, {options.rounds} rounds of {options.seconds} s"
    print(setting)
    head = f"{'':14}{'crowd':6}{'alone/s':>25}{'crowded/s':>25}{'ratio':>18}"
    print(f"{head}{f'CPU ms in {IDLE_SECONDS} s: alone':>24}, crowded")
    results: list[Result] = []
    failures: list[str] = []
    for threads in options.threads:
        server = "serve" + ("-pure" if options.pure else "") + ("-4" if threads == 4 else "")
        for kind in options.kind:
            try:
                result = compare(server, kind, count, options.rounds, options.seconds)
            except FailureError as error:
                failures.append(f"{server}, {kind}: {error}")
                print(f"{server:14}{kind:6}FAILED: {error}", flush=True)
                continue
            results.append(result)
            rates = f"{spread(result.alone):>25}{spread(result.crowded):>25}{spread(result.ratios):>18}"
            print(f"{server:14}{kind:6}{rates}{result.cpu_alone:>24.0f}, {result.cpu_crowded:.0f}", flush=True)

    verdicts = []
    for result in results:
        what, ratio = f"{result.server}, {result.kind}", statistics.median(result.ratios)
        met = "met" if ratio >= LEAST_RATIO else "MISSED"
        verdicts.append(f"{what}: at least {LEAST_RATIO} of the throughput: {met}, {number(ratio)}")
        if result.kind == "idle":
            met = "met" if result.cpu_crowded < MOST_CPU_MS else "MISSED"
            verdicts.append(
                f"{what}: under {MOST_CPU_MS} ms of CPU in {IDLE_SECONDS} s: {met}, {result.cpu_crowded:.0f}"
            )
    print("\nTargets", *verdicts, sep="\n  ")
    if options.json:
        rows = [asdict(result) for result in results]
        report = {"setting": setting, "failures": failures, "results": rows, "targets": verdicts}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
