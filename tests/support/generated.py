"""The number of examples for generated tests, by default and under "make fuzz"."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

#: Settings for "make fuzz" and the checked builds, where slow examples are normal.
PATIENT = settings(
    settings.get_profile("default"),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# No test fails because a machine is busy.
settings.register_profile("usual", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("usual")
settings.register_profile("fuzz", PATIENT, max_examples=int(os.environ.get("EXAMPLES") or 2000))
settings.register_profile("checked", PATIENT)


def examples(usual: int, **others: Any) -> settings:
    """Settings of a generated test: *usual* examples, or the number for "make fuzz". others: settings of hypothesis."""
    if settings.get_current_profile_name() == "fuzz":
        return settings(**others)
    return settings(max_examples=usual, **others)
