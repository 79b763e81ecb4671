"""What an import loads: nothing heavy that the module, or wsgiref's of the same name, doesn't need.

The promise for ``import fastwsgi``, and for the modules that don't serve, is absolute. simple_server is made of
http.server, and that loads email and, if there is one, ssl: ours loads what wsgiref's does of these, and no more.
What it costs in time is measured by ``python -m bench.startup``.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import MODULES
from serving import program_environment

HEAVY = {"asyncio", "email", "gunicorn", "http.client", "http.server", "multiprocessing", "ssl", "watchfiles"}
LIST_MODULES = "import sys; sys.stdout.write(' '.join(sys.modules))"


def loaded(code: str) -> set[str]:
    """The modules that a new interpreter has after some code."""
    finished = subprocess.run(
        [sys.executable, "-c", f"{code}; {LIST_MODULES}"],
        env=program_environment(),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    return set(finished.stdout.split())


def test_an_import_is_seen() -> None:
    # Nothing below means anything unless these are.
    assert {"asyncio", "ssl", "email"} <= loaded("import asyncio, ssl, email")
    assert "fastwsgi._backend" in loaded("import fastwsgi")


@pytest.mark.parametrize("module", ["fastwsgi", *(f"fastwsgi.{name}" for name in MODULES if name != "simple_server")])
def test_nothing_heavy_is_loaded_for_what_does_not_serve(module: str) -> None:
    assert not HEAVY & loaded(f"import {module}")


def test_simple_server_loads_what_wsgirefs_does_of_the_heavy_and_no_more() -> None:
    theirs = HEAVY & loaded("import wsgiref.simple_server")
    assert "http.server" in theirs
    assert HEAVY & loaded("import fastwsgi.simple_server") == theirs


def test_install_loads_no_more_than_simple_server() -> None:
    assert HEAVY & loaded("import fastwsgi; fastwsgi.install()") <= HEAVY & loaded("import wsgiref.simple_server")


def test_the_command_line_loads_no_extra_before_it_is_asked_for() -> None:
    assert not {"asyncio", "gunicorn", "multiprocessing", "watchfiles"} & loaded("import fastwsgi._serve.cli")


def test_serve_is_loaded_when_it_is_called() -> None:
    assert not {name for name in loaded("import fastwsgi; fastwsgi.serve") if name.startswith("fastwsgi._serve")}
