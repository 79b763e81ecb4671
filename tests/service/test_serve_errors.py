"""The command line when it can't serve: one line of error, and the exit status."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from clients import CERTIFICATE
from services import fails

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the tests speak over unix sockets")


def test_port_in_use(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        status, stderr = fails(place, "--bind", f"127.0.0.1:{port}")
    assert (status, stderr) == (1, f"fastwsgi: can't bind to 127.0.0.1:{port}: {os.strerror(98)}\n")


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["no_such_module"], 1, "fastwsgi: there is no module 'no_such_module'"),
        (["missing.py"], 1, "fastwsgi: can't read '.*missing.py': No such file or directory"),
        (["site_app:missing"], 1, "fastwsgi: module 'site_app' has no missing, but application"),
        (["site_app:nothing"], 1, "fastwsgi: nothing of 'site_app' is not callable, but None"),
        (["site_app:a-b"], 1, "fastwsgi: 'site_app:a-b': 'a-b' is not NAME, .*"),
        (["--bind", "nowhere"], 2, "fastwsgi: bind 'nowhere' isn't HOST:PORT, .*"),
        (["--bind", "unix:/no/such/directory/socket"], 1, "fastwsgi: can't bind to unix:/no/.*: No such file .*"),
        (["--certfile", "missing.pem"], 1, "fastwsgi: can't read certfile 'missing.pem'.*: No such file or directory"),
        (["--certfile", "site_app.py"], 1, "fastwsgi: can't read certfile 'site_app.py'.*: .*"),
        (
            ["--certfile", str(CERTIFICATE), "--ca-certs", "missing.pem"],
            1,
            "fastwsgi: can't read ca_certs 'missing.pem': No such file or directory",
        ),
        (
            ["--certfile", str(CERTIFICATE), "--ca-certs", "site_app.py"],
            1,
            "fastwsgi: can't read ca_certs 'site_app.py': .*",
        ),
        (["--access-log", "missing/log"], 1, "fastwsgi: can't write access_log 'missing/log': No such file .*"),
        (["--access-log", "log", "--access-log-format", "%Z"], 2, "fastwsgi: access_log_format has .*'%Z'.*"),
        (["--access-log-format", "%Z"], 2, "fastwsgi: access_log_format has .*'%Z'.*"),
        (["--forwarded-allow-ips", "here"], 2, "fastwsgi: forwarded_allow_ips has 'here', .*"),
        (["--forwarded-fields", "X-Real-IP"], 2, "fastwsgi: forwarded_fields has 'X-Real-IP', .*"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("workers", ["1", "2"])
def test_one_line_says_what_is_wrong(
    place: Path, arguments: list[str], status: int, problem: str, workers: str
) -> None:
    if not any("--bind" in each for each in arguments):
        arguments = [*arguments, "--bind", "127.0.0.1:0"]
    ended, stderr = fails(place, *arguments, "--workers", workers)
    assert re.fullmatch(problem + r"\n", stderr), stderr
    assert ended == status
    assert not (place / "log").exists()


@pytest.mark.parametrize(
    ("arguments", "environ", "problem"),
    [
        (["--threads", "0"], {}, "argument --threads: must be between 1 and 1024, not 0"),
        (["--no-such-flag"], {}, "unrecognized arguments: --no-such-flag"),
        (["a", "b"], {}, "unrecognized arguments: b"),
        ([], {"FASTWSGI_THREADS": "many"}, "FASTWSGI_THREADS must be a whole number, not 'many'"),
        (["--keyfile", "key.pem"], {}, "keyfile 'key.pem' needs certfile"),
        (["--reload", "--workers=2"], {}, "--reload can't be combined with --workers"),
    ],
)
def test_wrong_arguments(place: Path, arguments: list[str], environ: dict[str, str], problem: str) -> None:
    status, stderr = fails(place, *arguments, **environ)
    assert status == 2
    assert stderr.startswith("usage: fastwsgi ")
    assert stderr.splitlines()[-1] == f"fastwsgi: error: {problem}"


HIDING = """
import sys

class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Hiding())
from fastwsgi._service.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("flag", "package", "extra"), [("--workers=2", "gunicorn", "workers"), ("--reload", "watchfiles", "reload")]
)
def test_what_must_be_installed(place: Path, flag: str, package: str, extra: str) -> None:
    status, stderr = fails(place, flag, module=["-c", HIDING.format(name=package)])
    assert status == 1
    name = flag.partition("=")[0]
    assert stderr == f"fastwsgi: {name} needs {package}: pip install 'fastwsgi-toolkit[{extra}]'\n"


@pytest.mark.parametrize(
    "line", ["raise ValueError('wrong')", "raise OSError(5, 'wrong')", "import no_such_module", "1 +", "raise KeyError"]
)
@pytest.mark.parametrize("where", ["module", "factory"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_errors_of_the_program_are_its_own(place: Path, line: str, where: str, workers: str) -> None:
    if where == "module":
        (place / "broken.py").write_text(f"{line}\n", encoding="utf-8")
    else:
        (place / "broken.py").write_text(f"def make():\n    {line}\n", encoding="utf-8")
    status, stderr = fails(place, "broken:make()", "--workers", workers)
    assert status == 1
    assert stderr.startswith("Traceback (most recent call last):\n")
    assert stderr.count("most recent call") == 1
    assert "broken.py" in stderr
    assert "fastwsgi:" not in stderr


@pytest.mark.parametrize(("argument", "status", "says"), [("'wrong'", 1, "wrong\n"), ("7", 7, "")])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_program_may_exit(place: Path, argument: str, status: int, says: str, workers: str) -> None:
    (place / "ending.py").write_text(f"import sys\nsys.exit({argument})\n", encoding="utf-8")
    assert fails(place, "ending", "--workers", workers) == (status, says)
