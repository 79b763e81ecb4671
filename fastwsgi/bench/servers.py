"""The server measurements: each server has its own process, and they are loaded in turn, one round at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from .load import Load, pin, run_load
from .results import FailureError, Row, Target
from .workloads import CONNECTIONS, HELLO, POST, Workload, check_answer

STARTING_SECONDS = 10
STOPPING_SECONDS = 5

#: An unchanged make_server script; with threads, fastwsgi.serve.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "wsgiref": ("wsgiref", "{port}", "{app}"),
    "pure": ("fastwsgi", "{port}", "{app}"),
    "compiled": ("fastwsgi", "{port}", "{app}"),
    "pure, 4 threads": ("serve", "{port}", "{app}", "4"),
    "compiled, 4 threads": ("serve", "{port}", "{app}", "4"),
}
WORKLOADS = {"hello": HELLO, "connections": CONNECTIONS, "post": POST}
CPU, RATE, P50, P99 = "CPU time", "requests/s", "p50", "p99"


TARGETS = [
    Target("hello", RATE, "compiled", 25),
    Target("hello", RATE, "pure", 3),
    Target("connections", RATE, "compiled", 3),
]


@dataclass(frozen=True)
class Running:
    """A running server, and a function that returns the user and the system seconds that it has used.

    If only their sum matters, the first value may be the sum, and the second 0.
    """

    port: int
    cpu_times: Callable[[], tuple[float, float]]


@dataclass(frozen=True)
class Sample:
    """One server in one round."""

    load: Load
    user: float  # microseconds a request
    system: float

    @property
    def cpu(self) -> float:
        return self.user + self.system

    @property
    def busy(self) -> float:
        """The part of the time during which the server was busy."""
        return self.cpu * self.load.rate / 1e6


@dataclass
class Outcome:
    """The samples of each server, one for each round; and why other servers have none."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def column(self, value: Callable[[Sample], float]) -> dict[str, list[float]]:
        return {name: [value(each) for each in rounds] for name, rounds in self.samples.items()}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def started(
    command: Sequence[str], port: int, *, says: bool = False, variables: dict[str, str] | None = None
) -> Generator[subprocess.Popen[str]]:
    """Start a server; yield its process once *port* accepts connections. says: it reads and writes lines."""
    pipe = subprocess.PIPE if says else subprocess.DEVNULL
    environ = {**os.environ, **(variables or {})}
    pin(-1)
    try:
        process = subprocess.Popen(
            command, env=environ, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
    finally:
        pin(None)
    try:
        deadline = time.monotonic() + STARTING_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise FailureError(f"does not start: {' '.join(command)}")
            time.sleep(0.01)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """Stop a server and its child processes; kill them if they don't stop by themselves."""
    for attempt in ("SIGTERM", "SIGKILL"):
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, attempt))
            else:
                process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOPPING_SECONDS)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


@contextlib.contextmanager
def serving(name: str, workload: Workload) -> Generator[Running]:
    """Run one of PROGRAMS."""
    port = free_port()
    arguments = [argument.format(port=port, app=workload.app) for argument in PROGRAMS[name]]
    command = [sys.executable, "-m", "fastwsgi.bench.server_script", *arguments]
    variables = {"FASTWSGI_PURE": "1" if name.startswith("pure") else ""}
    with started(command, port, says=True, variables=variables) as process:

        def cpu_times() -> tuple[float, float]:
            if process.stdin is None or process.stdout is None:
                raise FailureError("no pipes")
            try:
                process.stdin.write("\n")
                process.stdin.flush()
                return float(process.stdout.readline()), 0.0
            except (OSError, ValueError) as error:
                raise FailureError(f"the server has ended: {error}") from error

        yield Running(port, cpu_times)


def sample(server: Running, workload: Workload, seconds: float, exact: bool = False) -> Sample:
    check_answer(workload, server.port)
    before = server.cpu_times()
    load = run_load(workload, server.port, seconds, exact=exact)
    after = server.cpu_times()
    user, system = ((late - early) / load.requests * 1e6 for early, late in zip(before, after, strict=True))
    return Sample(load, user, system)


def in_turn(
    workload: Workload,
    servers: Mapping[str, contextlib.AbstractContextManager[Running]],
    rounds: int,
    seconds: float,
    *,
    exact: bool = False,
    step: Callable[[], object] = lambda: None,
) -> Outcome:
    """Start all servers and measure them in turn. A server that fails gets no numbers, and its failure is recorded."""
    outcome = Outcome()
    running: dict[str, Running] = {}

    @contextlib.contextmanager
    def watched(name: str) -> Generator[None]:
        try:
            yield
        except FailureError as error:
            outcome.failures[name] = str(error)
            outcome.samples.pop(name, None)

    with contextlib.ExitStack() as stack:
        for name, server in servers.items():
            stack.enter_context(watched(name))
            with watched(name):
                running[name] = stack.enter_context(server)
        for _ in range(rounds):
            for name in [name for name in running if name not in outcome.failures]:
                with watched(name):
                    outcome.samples.setdefault(name, []).append(sample(running[name], workload, seconds, exact))
                step()
    return outcome


def measure(
    group: str, names: Sequence[str], rounds: int, seconds: float, step: Callable[[], object]
) -> tuple[list[Row], list[str]]:
    """The rows of a workload, and the failures."""
    workload = WORKLOADS[group]
    outcome = in_turn(workload, {name: serving(name, workload) for name in names}, rounds, seconds, step=step)
    rows = [
        Row(group, CPU, "µs a request", outcome.column(lambda each: each.cpu)),
        Row(group, RATE, RATE, outcome.column(lambda each: each.load.rate), more_is_better=True, is_steady=False),
        Row(group, P50, "µs", outcome.column(lambda each: each.load.p50), against=(), is_steady=False),
        Row(group, P99, "µs", outcome.column(lambda each: each.load.any_p99), against=(), is_steady=False),
    ]
    return rows, [f"{group}: {name}: {why}" for name, why in outcome.failures.items()]
