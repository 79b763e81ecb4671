"""The legs (a leg runs the tests on one named implementation), and the fixtures that several folders share."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import generated  # noqa: F401 - it registers profiles that the command line may name
from differences import DIFFERENCES
from surface import MODULES


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--leg",
        choices=("compiled", "pure", "stdlib"),
        default="compiled",
        help="the implementation under test (default: compiled, and it fails if that is missing)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; our programs would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    leg = config.getoption("--leg")
    if leg == "compiled":
        os.environ.pop("FASTWSGI_PURE", None)
    else:
        os.environ["FASTWSGI_PURE"] = "1"
    if leg != "stdlib":
        import fastwsgi

        if fastwsgi.implementation != leg:
            raise pytest.UsageError(
                f"--leg={leg} was asked for, but fastwsgi runs on {fastwsgi.implementation!r}"
            )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the tests that the leg can run: for the standard library, the shared ones without listed differences."""
    for item in items:
        for marker in item.iter_markers("differs"):
            if marker.args[0] not in DIFFERENCES:
                raise pytest.UsageError(f"{item.nodeid}: {marker.args[0]!r} is not in tests/support/differences.py")
    leg = config.getoption("--leg")
    if leg == "compiled":
        return
    kept = [item for item in items if not item.get_closest_marker("compiled")]
    if leg == "stdlib":
        kept = [item for item in kept if item.get_closest_marker("shared") and not item.get_closest_marker("differs")]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(scope="session")
def leg(pytestconfig: pytest.Config) -> str:
    """The implementation under test: "compiled", "pure" or "stdlib"."""
    return str(pytestconfig.getoption("--leg"))


# Module scope, because Hypothesis refuses fixtures of function scope in generated tests.
@pytest.fixture(scope="module", params=["_fallback", pytest.param("_speedups", marks=pytest.mark.compiled)])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    """Each implementation of the inner loops: the pure module, and on the compiled leg the extension too.

    A missing extension on the compiled leg is an error.
    """
    return importlib.import_module(f"fastwsgi.{request.param}")


@pytest.fixture(
    scope="module",
    params=[pytest.param(True, id="lane"), pytest.param(False, id="no lane", marks=pytest.mark.compiled)],
)
def lane(request: pytest.FixtureRequest) -> bool:
    """Whether servers may use the fast lane. Only the compiled leg has it, so the other legs run such a test once."""
    return bool(request.param)


@pytest.fixture(scope="session")
def wsgi(leg: str) -> SimpleNamespace:
    """An object with wsgiref's six modules of the implementation under test as attributes."""
    package = "wsgiref" if leg == "stdlib" else "fastwsgi"
    modules: dict[str, ModuleType] = {}
    for name in MODULES:
        if not (package == "wsgiref" and name == "types" and sys.version_info < (3, 11)):
            modules[name] = importlib.import_module(f"{package}.{name}")
    return SimpleNamespace(package=package, **modules)


@pytest.fixture
def place(leg: str) -> Iterator[Path]:
    """A directory with the site, whose path is short enough for unix sockets."""
    from services import site_directory  # not before the leg is chosen, because it imports fastwsgi

    with site_directory() as place:
        yield place


@pytest.fixture
def empty_place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty directory, for unix sockets."""
    path = tmp_path_factory.mktemp("s")
    monkeypatch.chdir(path)
    return path
