"""Run every code block in the README and the documents, or give the reason why it isn't run.

A Python block runs as a program. Commands run one by one in a directory with the files that they need. Servers get a
free port and a request.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients import CERTIFICATE, Address, fetch, trusting
from documents import ROOT, Block, Command, accepted, blocks, commands, text_of, without_blocks
from fastwsgi._service import options
from fastwsgi.bench import cli as bench
from programs import program_environment, program_path, run, run_python, running
from services import answer, service, site_directory
from waiting import TIMEOUT
from workers import site_environment

#: Commands that aren't run, by their first words, and the reason.
NOT_RUN = {
    "pip install fastwsgi-toolkit": "it asks a package index; test_documents.py looks at the name",
    "pip install .": "tests/release/test_build.py installs the package, in each of its kinds",
    "systemctl ": "systemd isn't running here; test_deployment.py verifies the units, and does what systemd does",
    "apt-get install ": "it changes the machine",
    "python -m pip install bjoern ": "it asks a package index",
    "python -m bench.servers": "it takes half an hour",
    "python -m bench.crowd": "it takes minutes, and ten thousand descriptors",
    "python -m bench.readme": "it changes the README",
    "python -m bench.instructions": "it takes a minute; test_instructions.py tests the command",
    "python -m bench.production": "it counts instructions, too; test_instructions.py runs its parts",
    "python -m bench.scaling": "it takes two minutes",
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in options.OPTIONS:
        monkeypatch.delenv(options.variable(name), raising=False)


def test_each_block_is_run_or_named() -> None:
    assert {block.language for block in blocks()} == {"python", "sh", "text"}, "no test knows the language"
    assert {"README.md", "docs/index.md", "docs/swap.md", "docs/serve.md"} <= {
        block.document for block in blocks("python")
    }
    lines = [command.line for command in commands()]
    for line in lines:
        known = [prefix for prefix in (*RUNNERS, *NOT_RUN) if line.startswith(prefix)]
        assert len(known) == 1, f"{line!r} is for none or for several of our runners: {known}"
    for prefix in (*RUNNERS, *NOT_RUN):
        assert any(line.startswith(prefix) for line in lines), f"no document has {prefix!r} any more"


@pytest.mark.parametrize("path", ["README.md", "bench/README.md", *sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))])  # fmt: skip
def test_no_block_is_hidden(path: str) -> None:
    """An indented block would have no language, and no test."""
    assert not re.search(r"^(    |\t)\S", without_blocks(ROOT / path), re.MULTILINE)


# ---- Python -----------------------------------------------------------------------------------------------

# Runs a document's code on a free port, and prints the port.
PRELUDE = """
import fastwsgi
from fastwsgi import simple_server
from fastwsgi.simple_server import demo_app as app

bind = simple_server.make_server

def make_server(host, port, app):
    server = bind(host and "127.0.0.1", port and 0, app)
    print(f"serving on http://127.0.0.1:{server.server_port}/", flush=True)
    return server

make_server.__module__ = bind.__module__
simple_server.make_server = make_server
"""
POSTLUDE = """
if "server" in globals():
    server.server_close()
"""


def serves(block: Block) -> bool:
    return "serve_forever()" in block.code or "fastwsgi.serve(" in block.code


def programs() -> list[Any]:
    """Each Python block, after the earlier blocks of the same document that end by themselves."""
    found = []
    before: dict[str, str] = {}
    for block in blocks("python"):
        code = before.get(block.document, "") + block.code
        found.append(pytest.param(code, serves(block), id=block.id))
        if not serves(block):
            before[block.document] = code + "\n"
    return found


@pytest.mark.parametrize(("code", "is_server"), programs())
def test_python(code: str, is_server: bool, tmp_path: Path) -> None:
    script = tmp_path / "documented.py"
    script.write_text(PRELUDE + code.replace(":8000", ":0") + POSTLUDE, encoding="utf-8")
    arguments = ["-W", "error", str(script)]
    if not is_server:
        finished = run_python(*arguments)
        assert (finished.returncode, finished.stderr) == (0, "")
        return
    announcement = r"serving on http://127\.0\.0\.1:(?P<port>\d+)/"
    with running(arguments, announcement) as program:
        answer = fetch(program.address, "/")
    assert answer.status == 200
    assert answer.body.startswith((b"Hello World", b"Hello world!"))
    assert "Traceback" not in program.stderr


# ---- commands ---------------------------------------------------------------------------------------------

SHOP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["SERVER_SOFTWARE"].encode()]
"""

# A wsgiref script, which prints its address and the module of its server.
SCRIPT = """
import sys
from wsgiref.simple_server import make_server

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join([make_server.__module__, *sys.argv[1:]]).encode()]

with make_server("127.0.0.1", 0, app) as httpd:
    print("port", httpd.server_port)
    httpd.serve_forever()
"""

DJANGO = """
from django.http import HttpResponse
from django.urls import path

ALLOWED_HOSTS, DEBUG, ROOT_URLCONF, SECRET_KEY = ["*"], True, __name__, "for tests"
urlpatterns = [path("", lambda request: HttpResponse(request.META["wsgi.file_wrapper"].__module__))]
"""


@pytest.fixture
def place() -> Any:
    """A directory with the files that the commands name: an application, a script, a certificate, a Django project."""
    with site_directory() as directory:
        (directory / "shop").mkdir()
        for name, text in {"shop/wsgi.py": SHOP, "script.py": SCRIPT, "site_settings.py": DJANGO}.items():
            (directory / name).write_text(text, encoding="utf-8")
        for name in ("fullchain.pem", "privkey.pem"):
            shutil.copy(CERTIFICATE, directory / name)
        yield directory


def run_fastwsgi(command: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the command, but on a free port or a socket in this directory; and send a request."""
    arguments = list(command.words[3:])
    values = accepted(arguments, capsys)
    (bind,) = values["bind"] or ("",)
    if bind.startswith("unix:") and not hasattr(os, "fork"):
        pytest.skip("no unix sockets here")
    if bind:
        here = f"unix:{place}/{Path(bind).name}" if bind.startswith("unix:") else "127.0.0.1:0"
        arguments[arguments.index("--bind") + 1] = here
    with service(place, *arguments) as running:
        if bind.startswith("unix:"):
            body = answer(re.findall(r"unix:([^?\s]*)", running.line)[0]).encode()
        elif values["certfile"]:
            body = fetch(Address("localhost", running.address.port), "/", tls=trusting()).body
        else:
            body = fetch(running.address, "/").body
    assert body.startswith(b"fastwsgi/")
    assert ('"GET / HTTP/1.1" 200' in running.stdout) is (values["access_log"] == "-")


def run_swap(command: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the program, which is a wsgiref script, and send a request."""
    arguments = list(command.words)[1:]
    environment = program_environment(DJANGO_SETTINGS_MODULE="site_settings")
    announcement = r"^port (?P<port>\d+)$"
    expected = " ".join(["fastwsgi.simple_server", *command.words[4:]])
    if "django" in arguments:
        arguments.append("127.0.0.1:0")
        announcement = r"server at http://127\.0\.0\.1:(?P<port>[1-9]\d*)/"
        expected = "fastwsgi."
    with running(arguments, announcement, environment=environment, cwd=place) as program:
        assert fetch(program.address, "/").body.decode().startswith(expected)
    assert "Traceback" not in program.stderr


def run_gunicorn(command: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the command, but on a free port; and send a request."""
    if not hasattr(os, "fork"):
        pytest.skip("gunicorn needs fork()")
    arguments = ["-m", *command.words, "--config", "python:worker_site", "--bind", "127.0.0.1:0", "--no-control-socket"]
    environment = site_environment(place)
    with running(arguments, r"listening on (?P<port>\d+)", environment=environment, cwd=place) as program:
        assert fetch(program.address, "/").body.startswith(b"fastwsgi/")


def run_make(command: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Let make print its commands without running them, because make has started these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    planned = run(program_path("make"), "-n", *command.words[1:], cwd=ROOT, environment=environment)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "/bin/python " in planned.stdout, "there is nothing to be done"


def run_bench(command: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Measure only one function, and don't compare with a baseline."""
    arguments = command.words[3:]
    wanted = bench.make_parser().parse_args(arguments)
    if wanted.compare is not None:
        return
    words = [*command.words[1:], "--quick", "--only", "is_hop_by_hop"]
    measured = run_python(*words, cwd=place, timeout=2 * TIMEOUT, check=True)
    assert "is_hop_by_hop" in measured.stdout
    assert (place / bench.BASELINE).exists() is wanted.save_baseline


def run_startup(command: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Measure each import once."""
    measured = run_python(*command.words[1:], "1", cwd=ROOT, timeout=2 * TIMEOUT, check=True)
    assert re.search(r"^wsgiref's modules +\d", measured.stdout, re.MULTILINE)


def run_cp(command: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Copy a file for deployment, but to this directory."""
    program, source, target = command.words
    copy = place / Path(target).relative_to("/etc/systemd/system")
    run(program_path(program), source, copy, cwd=ROOT / "examples" / "deploy", check=True)
    assert text_of(copy) == text_of(ROOT / "examples" / "deploy" / source)


RUNNERS: dict[str, Callable[[Command, Path, pytest.CaptureFixture[str]], None]] = {
    "python -m fastwsgi ": run_fastwsgi,
    "python -m fastwsgi.swap ": run_swap,
    "python -m fastwsgi.bench": run_bench,
    "python -m bench.startup": run_startup,
    "gunicorn ": run_gunicorn,
    "make ": run_make,
    "cp ": run_cp,
}


def runs() -> list[Any]:
    """Each command to run, with its runner. The make targets need the source."""
    return [
        pytest.param(runner, command, id=command.id, marks=[pytest.mark.source] if runner is run_make else [])
        for command in commands()
        for prefix, runner in RUNNERS.items()
        if command.line.startswith(prefix)
    ]


@pytest.mark.parametrize(("runner", "command"), runs())
def test_command(runner: Any, command: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner(command, place, capsys)


# ---- the output of programs --------------------------------------------------------------------------------


def test_the_line_that_a_service_prints(place: Path) -> None:
    (block,) = blocks("text")
    version, what, where = re.fullmatch(r"fastwsgi (\S+) \((.*)\) serving on (.*)\n", block.code).groups()  # type: ignore[union-attr]
    with service(place, "--threads", "8", "shop.wsgi:application") as running:
        said = running
    implementation, *rest = what.split(", ")
    assert said.version == version
    assert implementation == "compiled"
    assert said.what[1:] == rest
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", said.urls[0])
    assert re.fullmatch(r"http://0\.0\.0\.0:8000/", where)
