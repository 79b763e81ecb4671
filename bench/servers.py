"""Compare the server with others and with wsgiref's: one process and one core each, loaded by wrk on another.

    python -m bench.servers [--seconds N] [--rounds N] [--only NAME ...] [--workload NAME ...] [--unpinned]
                            [--json FILE]

For each workload all servers are started and then loaded in turn, a round at a time. Printed are medians over
the rounds and, in brackets, the smallest and the largest value. Ratios are to the best of the servers that the
table names, in the same round. A request that fails, or an answer that isn't the right one, makes the exit
status 1. bench/README.md says how to install what is needed, and what the numbers don't say.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.server_scripts import SERVERS

HERE = Path(__file__).parent
CONNECTIONS = 32
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

C_PEERS = ("bjoern", "fastpysgi")
PEERS = (*C_PEERS, "waitress", "cheroot", "gunicorn")
NAMES = ("floor", *SERVERS)
USUAL = ("floor", "fastwsgi", "fastwsgi-pure", "wsgiref", "bjoern", "fastpysgi", "waitress", "gunicorn")

# A browser's request; Host is put in front of these.
TARGET = "/shop/items?page=2&sort=price"
FIELDS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br",
    "Referer": "https://www.example.com/shop/",
    "Connection": "keep-alive",
    "Cookie": "session=0123456789abcdef; theme=dark",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
}
FILE = bytes(range(256)) * 4096


@dataclass(frozen=True)
class Workload:
    """What is asked of a server, and the body it must answer with."""

    about: str
    app: str
    answer: bytes
    fields: dict[str, str] = field(default_factory=dict)
    body: str = ""
    #: What is another in each request: a text in the fields, and in Lua what replaces it in request number count.
    varies: tuple[str, str] | None = None
    has_latencies: bool = False  # whether they are printed; to find them takes wrk some seconds more
    servers: tuple[str, ...] = USUAL
    against: tuple[str, ...] = C_PEERS
    left_out: dict[str, str] = field(default_factory=dict)  # servers, and why


NO_FLOOR = {"floor": "only answers hello on connections that are kept alive"}
WORKLOADS = {
    "hello": Workload("the same head again and again, 13 bytes back", "hello", b"Hello, world!"),
    "mixed": Workload(
        "no two heads equal, 13 bytes back", "hello", b"Hello, world!",
        varies=("0123456789abcdef", 'string.format("%016d", count)'),
    ),
    "connections": Workload(
        "a connection for each request", "hello", b"Hello, world!", {"Connection": "close"}, left_out=NO_FLOOR
    ),
    "post": Workload("8 KiB sent, their number back", "post", b"8192", body="x" * 8192, left_out=NO_FLOOR),
    "stream": Workload(
        "100 blocks of 100 bytes back, no Content-Length", "stream", b"x" * 10_000,
        left_out={**NO_FLOOR, "wsgiref": "wrk takes a body that ends with its connection for an error"},
    ),
    "file": Workload("a file of 1 MiB back", "file", FILE, left_out=NO_FLOOR),
    "threads": Workload(
        "hello, answered in one thread or four", "hello", b"Hello, world!", has_latencies=True,
        servers=("serve", "serve-4", "serve-pure", "serve-pure-4", "waitress", "cheroot", "gunicorn"),
        against=("serve",),
    ),
    "log": Workload(
        "hello, with an access log or without", "hello", b"Hello, world!",
        servers=("serve", "serve-common", "serve-combined", "serve-json"), against=("serve",),
    ),
    "proxied": Workload(
        "hello, as a proxy passes it on: each time for another client", "hello", b"Hello, world!",
        {"X-Forwarded-For": "10.0.0.0", "X-Forwarded-Proto": "https"},
        varies=(
            "10.0.0.0", 'string.format("10.%d.%d.%d", count / 65536 % 256, count / 256 % 256, count % 256)'
        ),
        servers=("fastwsgi", "serve", "serve-proxied"), against=("serve",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A bound for a server's ratio to the best of others: from below for throughput, from above for time."""

    workload: str
    metric: str
    limit: float
    against: tuple[str, ...]
    server: str = "fastwsgi"


TARGETS = [
    Target("hello", "user", 0.5, C_PEERS),
    Target("hello", "rate", 1.2, PEERS),
    Target("hello", "rate", 0.85, ("floor",)),
    Target("hello", "rate", 25, ("wsgiref",)),
    Target("hello", "rate", 3, ("wsgiref",), "fastwsgi-pure"),
    Target("mixed", "user", 0.8, C_PEERS),
    Target("connections", "rate", 3, ("wsgiref",)),
    Target("post", "rate", 1, PEERS),
    Target("stream", "rate", 1, PEERS),
    Target("file", "rate", 1, PEERS),
    Target("threads", "rate", 0.8, ("serve",), "serve-4"),
    Target("threads", "rate", 8, ("waitress", "cheroot"), "serve-4"),
    Target("threads", "p99", 0.5, ("gunicorn",), "serve-4"),
    Target("threads", "stalled_p99", 0.5, ("gunicorn",), "serve-4"),
]
METRICS = {"rate": "requests/s", "user": "user µs", "p99": "p99 latency", "stalled_p99": "p99 latency with stalls"}
LATENCY_METRICS = ("p99", "stalled_p99")

# wrk adds to its latencies those of the requests that it would have sent if no answer had been late. Here that is
# taken back, from the longest latency to the shortest, which leaves one for each answer.
LATENCIES = f"""
function percentiles(all, latency)
  local step = math.floor(all.duration / math.floor(all.requests / {CONNECTIONS}))
  local values, counts, left, p99 = {{}}, {{}}, all.requests / 100, 0
  for i = 1, #latency do
    local value, count = latency(i)
    values[i], counts[value] = value, count
  end
  for i = #values, 1, -1 do
    local count = counts[values[i]]
    for added = values[i] - step, step + 1, -step do counts[added] = counts[added] - count end
    if left > 0 then p99 = values[i] end
    left = left - count
  end
  return p99, latency:percentile(99)
end
"""


@dataclass(frozen=True)
class Measurement:
    """One server under load in one round: requests a second, microseconds a request."""

    rate: float
    user: float
    system: float
    p99: float  # of the latencies, a percentile; 0: not measured
    stalled_p99: float  # and with those of the requests that were not sent because an answer was late
    server_busy: float  # the part of the time in which the server ran,
    client_busy: float  # and wrk


class FailureError(Exception):
    """A server that doesn't run, a request that failed, or a wrong answer."""


def pin(index: int) -> None:
    """Keep this process, and what it starts from now on, on one core, if each side is to have one."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[index]})


def missing_ones() -> dict[str, str]:
    """The servers that can't be measured here, and why."""
    missing = {}
    if not shutil.which("cc"):
        missing["floor"] = "no C compiler"
    for name in PEERS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing[name] = f"not installed ({error})"
    return missing


@contextlib.contextmanager
def serving(name: str, workload: Workload, scratch: Path) -> Iterator[tuple[int, int]]:
    """Start a server, wait until it takes connections, and give its process id and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if name == "floor":
        command = [str(scratch / "floor"), str(port)]
    else:
        script = [sys.executable, "-m", "bench.server_scripts"]
        command = [*script, name, str(port), workload.app, str(scratch / "file")]
    pin(-1)
    process = subprocess.Popen(
        command, cwd=HERE.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    pin(0)
    try:
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise FailureError(f"does not start; try: python -m bench.server_scripts {name} 8000 {workload.app}")
            time.sleep(0.01)
        yield process.pid, port
    finally:
        # The whole session, because gunicorn's worker is a process of its own.
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


def check_answer(workload: Workload, port: int) -> None:
    """Ask once, and compare the whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST" if workload.body else "GET", TARGET, workload.body, {**FIELDS, **workload.fields})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise FailureError(f"no answer: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200 or body != workload.answer:
        raise FailureError(f"wrong answer: {response.status}, {len(body)} bytes: {body[:50]!r}")


def wrk_script(workload: Workload, port: int) -> str:
    """wrk's part in Lua: the totals on the last line, and requests that aren't all the same."""
    script = LATENCIES if workload.has_latencies else "percentiles = function() return 0, 0 end\n"
    script += (
        "done = function(all, latency) local e = all.errors\n"
        'print(string.format("%.0f %.0f %.0f %.0f %.0f %.0f %.0f", all.requests, all.duration, all.bytes,\n'
        "e.connect + e.read + e.write + e.timeout, e.status, percentiles(all, latency))) end\n"
    )
    if workload.body:
        script += f'wrk.method, wrk.body = "POST", {json.dumps(workload.body)}\n'
    if workload.varies is not None:
        place, value = workload.varies
        fields = {"Host": f"127.0.0.1:{port}", **FIELDS, **workload.fields}
        head = [f"GET {TARGET} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields), "", ""]
        before, after = "\r\n".join(head).split(place)
        script += (
            f"local count, before, after = 0, {json.dumps(before)}, {json.dumps(after)}\n"
            f"request = function() count = count + 1; return before .. {value} .. after end\n"
        )
    return script


def cpu_times(pid: int) -> tuple[float, float]:
    """The user and the system seconds of a process and its children."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(values[11]) / TICKS_A_SECOND, int(values[12]) / TICKS_A_SECOND
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        child_user, child_system = cpu_times(int(child))
        user, system = user + child_user, system + child_system
    return user, system


def measure(pid: int, port: int, workload: Workload, seconds: int, scratch: Path) -> Measurement:
    check_answer(workload, port)
    script = scratch / "wrk.lua"
    script.write_text(wrk_script(workload, port))
    # The time limit is longer than the run: wsgiref leaves connections waiting for a place in its short queue.
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", f"{seconds + 10}s", "-s", str(script)]
    for name, value in {**FIELDS, **workload.fields}.items():
        command += ["-H", f"{name}: {value}"]
    command.append(f"http://127.0.0.1:{port}{TARGET}")
    try:
        before, client_before = cpu_times(pid), resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
        after, client_after = cpu_times(pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    except (OSError, subprocess.SubprocessError) as error:
        raise FailureError(f"the server or wrk ended: {error}") from error
    requests, duration, size, broken, refused, p99, stalled_p99 = map(int, output.splitlines()[-1].split())
    if broken or refused or not requests:
        raise FailureError(f"{requests} answers, {refused} of them 4xx or 5xx, and {broken} errors of sockets")
    if size < requests * len(workload.answer):
        raise FailureError(f"{requests} answers have only {size} bytes")
    user, system = after[0] - before[0], after[1] - before[1]
    client = client_after.ru_utime + client_after.ru_stime - client_before.ru_utime - client_before.ru_stime
    microseconds = 1e6 / requests
    return Measurement(
        requests / duration * 1e6, user * microseconds, system * microseconds, p99, stalled_p99,
        (user + system) / duration * 1e6, client / duration * 1e6,
    )  # fmt: skip


#: The measurements of one workload: for each server, one a round.
Measured = dict[str, list[Measurement]]


def run(
    workload: Workload, names: Sequence[str], rounds: int, seconds: int, scratch: Path
) -> tuple[Measured, dict[str, str]]:
    """Measure servers in turn; a server that fails gets no numbers, and its failure is told."""
    measured: Measured = {}
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        running = {}
        for name in names:
            try:
                running[name] = stack.enter_context(serving(name, workload, scratch))
            except FailureError as error:
                failures[name] = str(error)
        for _ in range(rounds):
            for name in [name for name in running if name not in failures]:
                try:
                    measured.setdefault(name, []).append(measure(*running[name], workload, seconds, scratch))
                except FailureError as error:
                    failures[name] = str(error)
    return {name: each for name, each in measured.items() if name not in failures}, failures


def ratios(measured: Measured, name: str, metric: str, against: Sequence[str]) -> list[float]:
    """A server's ratio to the best of others, for each round; empty if either side wasn't measured."""
    best = max if metric == "rate" else min
    rounds = zip(*(measured[other] for other in against if other in measured), strict=True)
    bests = [best(getattr(other, metric) for other in others) for others in rounds]
    return [getattr(own, metric) / other for own, other in zip(measured.get(name, []), bests, strict=False)]


def number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"


def print_table(measured: Measured, workload: Workload) -> None:
    print(f"Ratios are to {' or '.join(workload.against)}.")
    head = f"{'':14}{'requests/s':>25}{'ratio':>18}{'user µs':>20}{'ratio':>20}{'system µs':>11}"
    if workload.has_latencies:
        head += f"{'p99 µs':>24}{'with stalls':>24}"
    print(f"{head}  server, wrk busy")
    for name, rounds in measured.items():
        line = f"{name:14}"
        for metric, widths in (("rate", (25, 18)), ("user", (20, 20))):
            line += f"{spread([getattr(each, metric) for each in rounds]):>{widths[0]}}"
            line += f"{spread(ratios(measured, name, metric, workload.against)):>{widths[1]}}"
        system, server, client = (
            statistics.median(getattr(each, metric) for each in rounds)
            for metric in ("system", "server_busy", "client_busy")
        )
        line += f"{number(system):>11}"
        if workload.has_latencies:
            line += "".join(f"{spread([getattr(each, metric) for each in rounds]):>24}" for metric in LATENCY_METRICS)
        print(f"{line}{server:>8.0%}{client:>8.0%}", flush=True)


def judge(target: Target, results: dict[str, Measured]) -> str:
    more_is_better = target.metric == "rate"
    bound = "at least" if more_is_better else "at most"
    measured = results.get(target.workload, {})
    others = " or ".join([name for name in target.against if name in measured] or target.against)
    text = f"{target.workload}: {METRICS[target.metric]} of {target.server} {bound} {target.limit} × {others}"
    values = ratios(measured, target.server, target.metric, target.against)
    if not values:
        return f"{text}: not measured"
    median = statistics.median(values)
    met = median >= target.limit if more_is_better else median <= target.limit
    return f"{text}: {'met' if met else 'MISSED'}, {spread(values)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=4, help="of load, for each server in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME", help=", ".join(WORKLOADS)
    )
    parser.add_argument("--unpinned", action="store_true", help="let the system give cores to the servers and wrk")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to this file too")
    options = parser.parse_args()
    if options.unpinned:
        CORES.clear()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is needed; see bench/README.md")

    missing = {name: why for name, why in missing_ones().items() if name in options.only}
    peers = [name for name in PEERS if name in options.only and name not in missing]
    versions = {name: importlib.metadata.version(name) for name in peers}
    setting = f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, "
    setting += "unpinned, " if options.unpinned else ""
    setting += f"{CONNECTIONS} connections, {options.rounds} rounds of {options.seconds} s"
    print(", ".join([setting, *(f"{name} {version}" for name, version in versions.items())]))
    if len(CORES) < 2 and not options.unpinned:
        print("the servers share their core with wrk: don't trust the throughput")
    for name, why in missing.items():
        print(f"{name}: {why}")

    results: dict[str, Measured] = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        (scratch / "file").write_bytes(FILE)
        if "floor" in options.only and "floor" not in missing:
            subprocess.run(["cc", "-O2", "-o", scratch / "floor", HERE / "floor.c"], check=True)
        for title in options.workload:
            workload = WORKLOADS[title]
            print(f"\n{title}: {workload.about}")
            out = {*missing, *workload.left_out}
            names = [name for name in workload.servers if name in options.only and name not in out]
            results[title], failed = run(workload, names, options.rounds, options.seconds, scratch)
            print_table(results[title], workload)
            for name, why in workload.left_out.items():
                if name in options.only:
                    print(f"{name:14}left out: {why}")
            for name, why in failed.items():
                print(f"{name:14}FAILED: {why}", flush=True)
                failures.append(f"{title}: {name}: {why}")

    verdicts = [judge(target, results) for target in TARGETS if target.workload in options.workload]
    print("\nTargets", *verdicts, sep="\n  ")
    if options.json:
        rows = {title: {name: [asdict(each) for each in rounds] for name, rounds in measured.items()}
                for title, measured in results.items()}  # fmt: skip
        report = {"setting": setting, "versions": versions, "missing": missing, "failures": failures,
                  "results": rows, "targets": verdicts}  # fmt: skip
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
