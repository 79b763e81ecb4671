"""The machine of a measurement, as far as it matters for the numbers."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from fastwsgi import _backend
from fastwsgi._version import __version__


def processor() -> str:
    """The processor's name, as precise as the system provides it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def describe_machine() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0
    python = f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}"
    return {
        "processor": f"{processor()}, {cores} cores",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": python,
        "fastwsgi": f"{__version__}, {_backend.implementation}",
    }


def as_lines(facts: Mapping[str, str]) -> str:
    """Facts of a run, including its machine, one line each."""
    return "\n".join(f"{name}: {value}" for name, value in facts.items())
