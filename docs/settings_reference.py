"""Write docs/settings.md, the reference of all settings, from the dataclass that defines them.

Run ``python -m docs.settings_reference`` in the top directory. With ``--check`` it only checks whether the file is
current.
"""

from __future__ import annotations

import sys
from dataclasses import Field
from pathlib import Path
from typing import Any

from fastwsgi._http.settings import Settings
from fastwsgi._service.options import GROUPS, OPTIONS, default_text, flag, variable

PAGE = Path(__file__).with_name("settings.md")

HEAD = """\
<!-- Made by "python -m docs.settings_reference" from fastwsgi/_service/options.py and _http/settings.py. -->
# Settings

These are all settings of `fastwsgi.serve()` and `python -m fastwsgi`. Each setting has three names: a keyword argument,
a flag and an environment variable. All three accept the same values. A keyword argument or a flag overrides the
variable, and the variable overrides the default. `python -m fastwsgi --print-config` shows each value and its source.

Flags and variables use these formats:

- Sizes accept the suffixes `k`, `m` and `g` for 1024, 1024² and 1024³ bytes.
- Lists of addresses or names are separated by commas or spaces. Their flags may be repeated.
- A yes-or-no flag also has a `--no-` form. Its variable is `1`, `true`, `yes` or `on`, or `0`, `false`, `no` or `off`.
- An empty variable counts as not set.

If a value is out of range, the program ends with status 2. `serve()` raises `ValueError`, or `TypeError` for a value of
the wrong type.

A `make_server` script sets the limits, the timeouts, `fast_lane` and `poller` through `WSGIServer.settings`
([how to change them](swap.md#limits)). [Serving in production](serve.md) explains which settings to change.
"""


def page() -> str:
    """The expected text of the page."""
    parts = [HEAD]
    for group in GROUPS:
        parts.append(f"\n## {group[0].upper()}{group[1:]}\n")
        parts += [entry(option) for option in OPTIONS.values() if option.metadata["group"] == group]
    return "".join(parts)


def entry(option: Field[Any]) -> str:
    """An option's heading, names, values, default and meaning."""
    name = option.name
    default = default_text(option)
    shown = f"default `{default}`" if default else "no default"
    own = Settings.__dataclass_fields__.get(name, option).default
    if own != option.default:
        shown += f" (`{own:g}` in `WSGIServer.settings`)"
    facts = " · ".join([f"`{flag(name)}`", f"`{variable(name)}`", values(option), shown])
    return f"\n### `{name}`\n\n{facts}\n\n{option.metadata['meaning']}\n"


def values(option: Field[Any]) -> str:
    """The values that an option accepts: its unit and range, or its choices."""
    unit, between, choices = (option.metadata[key] for key in ("unit", "between", "choices"))
    if choices:
        return " or ".join(f"`{choice}`" for choice in choices)
    if isinstance(option.default, bool):
        return "yes or no"
    if between is None:
        return f"a {unit}" if unit in ("file", "format") else str(unit)
    if unit == "bytes":
        return " to ".join(map(size, between))
    least, most = (grouped(bound) for bound in between)
    return f"{least} to {most} {unit}" if unit != "number" else f"a number, {least} to {most}"


def grouped(bound: float) -> str:
    """A number in digits; long numbers are grouped."""
    digits = f"{bound:,.3f}".rstrip("0").rstrip(".")
    return digits.replace(",", "" if bound < 10_000 else "\N{NO-BREAK SPACE}")


def size(octets: float) -> str:
    """A number of bytes, in the largest unit that gives a whole number."""
    count, units = int(octets), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while count and count % 1024 == 0:
        count //= 1024
        units.pop(0)
    return f"{count}\N{NO-BREAK SPACE}{units[0] if octets != 1 else 'byte'}"


if __name__ == "__main__":
    from docs.generated_file import main

    sys.exit(main(__doc__, PAGE, page(), "settings_reference"))
