"""Measure the cost of an import: our modules and wsgiref's in turn, each time in a new interpreter.

    python -m bench.startup [ROUNDS]

Prints the smallest and the median CPU time of each import in the rounds (default: 40), in milliseconds. The start of
the interpreter isn't included. Byte code files exist, as they do after a program's first start.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

GATEWAY = ("util", "headers", "handlers", "validate")
ALL = (*GATEWAY, "simple_server", *(["types"] if sys.version_info >= (3, 11) else []))  # all modules of wsgiref


def imports(package: str, modules: Sequence[str]) -> str:
    return "import " + ", ".join(f"{package}.{name}" for name in modules)


CASES = {
    "import fastwsgi": "import fastwsgi",
    "wsgiref's modules": imports("wsgiref", ALL),
    "fastwsgi's of the same names": imports("fastwsgi", ALL),
    "wsgiref's, less simple_server": imports("wsgiref", GATEWAY),
    "fastwsgi's, less simple_server": imports("fastwsgi", GATEWAY),
}
MEASURE = "import time; begin = time.process_time(); {}; print(time.process_time() - begin)"


def milliseconds(code: str, environment: Mapping[str, str]) -> float:
    """The CPU time of some code in a new interpreter."""
    command = [sys.executable, "-c", MEASURE.format(code)]
    finished = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return 1000 * float(finished.stdout)


def main() -> None:
    rounds = int(sys.argv[1]) if sys.argv[1:] else 40
    times: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as directory:
        # Byte code must be written, even if the environment forbids it or the package's folder is read-only.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": directory}
        for code in CASES.values():
            milliseconds(code, environment)
        for _ in range(rounds):
            for name, code in CASES.items():
                times[name].append(milliseconds(code, environment))
    print(f"{'milliseconds of processor time':32} smallest  median")
    for name, values in times.items():
        print(f"{name:32} {min(values):8.1f} {statistics.median(values):7.1f}")


if __name__ == "__main__":
    main()
