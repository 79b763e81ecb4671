"""Load a server from another process: with wrk if it is installed, else with our own client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .client import BETWEEN
from .results import FailureError
from .workloads import TARGET, Workload

CONNECTIONS = 32
#: How many different requests the built-in client has, where they differ. Then it begins again.
_DIFFERENT = 5000
#: The cores to pin processes to: servers to the last, wrk to the first. Empty: no pinning.
cores: list[int] = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

# wrk adds latencies of the requests that it would have sent if no response had been late. This removes them, from the
# longest latency to the shortest, so that one latency for each response remains.
EXACT_P99 = f"""
function exact_p99(all, latency)
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
  return p99
end
"""
LAST_LINE = """
done = function(all, latency)
  local e = all.errors
  print(string.format("%.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f", all.requests, all.duration, all.bytes,
    e.connect + e.read + e.write + e.timeout, e.status,
    latency:percentile(50), exact_p99(all, latency), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Load:
    """Results of a client: responses, seconds, latencies in microseconds, and the part of the time that it was busy."""

    requests: int
    seconds: float
    p50: float
    p99: float  # 0: unknown
    stalled_p99: float  # includes latencies of requests that weren't sent because a response was late
    busy: float

    @property
    def any_p99(self) -> float:
        return self.p99 or self.stalled_p99

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def pin(side: int | None) -> None:
    """Pin this process, and processes that it starts later, to the first core (0), the last (-1) or none (None)."""
    if len(cores) > 1:
        os.sched_setaffinity(0, cores if side is None else {cores[side]})


def client_name() -> str:
    return "wrk" if shutil.which("wrk") else "the built-in client"


def how_pinned() -> str:
    if len(cores) < 2:
        return "not pinned to cores"
    return "servers on one core, wrk on another" if client_name() == "wrk" else "servers and clients on one core"


def run_load(workload: Workload, port: int, seconds: float, *, exact: bool = False, by: str = "") -> Load:
    """Send requests for *seconds* over 32 connections; raise FailureError if a request fails or a response is wrong.

    exact: also determine the exact p99, which takes wrk some seconds more. by: a client_name().
    """
    try:
        if (by or client_name()) == "wrk":
            pin(0)
            return load_by_wrk(workload, port, seconds, exact)
        # Our client is slower than the server. With its own core, the server would wake up for each request. On one
        # core both take turns, with many requests in each turn. Then the server's time per request is nearly the same
        # as under full load.
        pin(-1)
        return load_by_client(workload, port, seconds)
    except (OSError, subprocess.SubprocessError) as error:
        raise FailureError(f"the client or the server ended: {error}") from error
    finally:
        pin(None)


def load_by_client(workload: Workload, port: int, seconds: float) -> Load:
    command = [sys.executable, "-m", "fastwsgi.bench.client", str(port), str(CONNECTIONS), str(seconds)]
    requests = [workload.request(port, number) for number in range(_DIFFERENT if workload.varies else 1)]
    done = subprocess.run(
        command, input=BETWEEN.join(requests), stdout=subprocess.PIPE, check=True, timeout=seconds + 60
    )
    seen = json.loads(done.stdout)
    if seen["failures"] or not seen["requests"]:
        raise FailureError(f"{seen['requests']} responses, and then: {' '.join(seen['failures']) or 'nothing'}")
    return Load(seen["requests"], seen["duration"], seen["p50"], seen["p99"], 0, seen["busy"])


def load_by_wrk(workload: Workload, port: int, seconds: float, exact: bool) -> Load:
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "requests.lua")
        script.write_text(wrk_script(workload, port, exact), encoding="ascii")
        # A timeout longer than the run, because connections wait for a place in the short queue of wsgiref.
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d600s", "--timeout", f"{seconds + 10:.0f}s", "-s", str(script)]
        for name, value in workload.head_fields(port).items():
            command += ["-H", f"{name}: {value}"]
        command.append(f"http://127.0.0.1:{port}{TARGET}")
        before = os.times()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)  # then wrk prints its results; its own limit is in whole seconds
            output = process.communicate(timeout=60)[0]
        after = os.times()
    try:
        requests, duration, size, broken, refused, p50, p99, stalled = map(int, output.splitlines()[-1].split())
    except (ValueError, IndexError):
        raise FailureError(f"wrk says: {output[-300:]}") from None
    if broken or refused or not requests:
        raise FailureError(f"{requests} responses, {refused} of them 4xx or 5xx, and {broken} socket errors")
    if size < requests * len(workload.answer):
        raise FailureError(f"{requests} responses have only {size} bytes")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Load(requests, duration / 1e6, p50, p99, stalled, used / duration * 1e6)


def wrk_script(workload: Workload, port: int, exact: bool) -> str:
    """The Lua script for wrk: it prints the totals on the last line, and varies the requests."""
    script = (EXACT_P99 if exact else "function exact_p99() return 0 end\n") + LAST_LINE
    if workload.body:
        script += f'wrk.method, wrk.body = "POST", {json.dumps(workload.body)}\n'
    if workload.varies is not None:
        before, after = workload.request(port).decode("ascii").split(workload.varies.place)
        script += (
            f"local count, before, after = 0, {json.dumps(before)}, {json.dumps(after)}\n"
            f"request = function() count = count + 1; return before .. {workload.varies.lua} .. after end\n"
        )
    return script
