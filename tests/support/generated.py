"""The number of examples that generated tests get, usually and under "make fuzz"."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

#: What "make fuzz" and the checked builds share: their examples are slow, and it's no fault of theirs.
PATIENT = settings(
    settings.get_profile("default"),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

settings.register_profile("fuzz", PATIENT, max_examples=int(os.environ.get("EXAMPLES") or 2000))
settings.register_profile("checked", PATIENT)


def examples(usual: int, **others: Any) -> settings:
    """Settings of a generated test: *usual* examples, or as many as "make fuzz" wants, and *others* of hypothesis."""
    if settings.get_current_profile_name() == "fuzz":
        return settings(**others)
    return settings(max_examples=usual, **others)
