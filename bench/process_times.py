"""Read the CPU time of a process and its children on Linux."""

from __future__ import annotations

import os
import time
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_times(pid: int) -> tuple[float, float]:
    """The user and system CPU seconds of a process and its children, in steps of 0.01 s."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(values[11]) / TICKS_A_SECOND, int(values[12]) / TICKS_A_SECOND
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        child_user, child_system = cpu_times(int(child))
        user, system = user + child_user, system + child_system
    return user, system


def cpu_seconds(pid: int) -> float:
    """The CPU seconds of a process without its children, in steps of a nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)
