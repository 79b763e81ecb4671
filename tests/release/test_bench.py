"""The benchmark: its arithmetic, its client, and each option of its command line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastwsgi.bench import cli, hot_paths, load, servers, workloads
from fastwsgi.bench.client import Client
from fastwsgi.bench.compare import compare
from fastwsgi.bench.progress import progress
from fastwsgi.bench.report import BadReportError, Report, read_report, show, show_noise
from fastwsgi.bench.results import FailureError, Row, Target, judge, noise, number, spread
from programs import program_environment, program_path, run_python

HOP = "is_hop_by_hop"


def row(name: str = "work", group: str = "hot paths", **rounds: list[float]) -> Row:
    return Row(group, name, "µs a call", rounds)


# ---- the arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0.00"), (0.123, "0.12"), (9.87, "9.87"), (12.34, "12.3"), (1234.5, "1,234"), (1e6, "1,000,000")],
)
def test_three_digits_are_shown(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_spread_leaves_out_the_first_and_the_last_tenth() -> None:
    assert spread([3, 1, 2]) == (2, 1, 3)
    assert spread([1000, *range(1, 19), -1000]) == (9.5, 2, 17)


def test_ratios_are_to_the_best_of_the_same_round() -> None:
    times = Row("hello", "CPU time", "µs", {"a": [4, 9], "b": [8, 3], "c": [2, 2]}, against=("a", "b"))
    assert times.ratios("c") == [2, 1.5]
    assert times.ratios("a", against=["c"]) == [0.5, 2 / 9]
    rates = Row("hello", "requests/s", "", times.rounds, ("a", "b", "x"), more_is_better=True)
    assert rates.ratios("c") == [0.25, 2 / 9]
    assert rates.ratios("x") == []
    assert row(c=[1]).ratios("c") == []  # wsgiref wasn't measured
    assert row(wsgiref=[0, 1], c=[1, 1]).ratios("c") == [1]  # too small to measure


def test_noise_is_how_far_the_median_may_be_off() -> None:
    assert noise([5]) == math.inf
    assert noise([5, 5, 5, 5]) == 0
    few, many = [90, 100, 110] * 3, [90, 100, 110] * 300
    assert noise(few) == pytest.approx(10 * noise(many))
    assert 0.05 < noise(few) < 0.15


@pytest.mark.parametrize(("compiled", "word"), [(2, "met"), (5.1, "MISSED"), (5, "met")])
def test_a_target_is_met_or_missed(compiled: float, word: str) -> None:
    rows = [row("other"), row(wsgiref=[10.0], compiled=[compiled])]
    verdict = judge(Target("hot paths", "work", "compiled", 2), rows)
    assert verdict.word == word
    assert verdict.is_missed == (word == "MISSED")
    assert word in str(verdict)


def test_a_target_that_was_not_measured_is_not_met() -> None:
    verdict = judge(Target("hot paths", "work", "compiled", 2), [row(wsgiref=[10])])
    assert (verdict.word, verdict.is_missed) == ("not measured", False)


# ---- the hot paths -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def implementations(leg: str) -> dict[str, Any]:
    found = {name: hot_paths.load(name) for name in ("wsgiref", "pure", leg)}
    assert None not in found.values()
    return found


@pytest.mark.parametrize("name", hot_paths.WORKS)
def test_the_work_is_the_same_on_every_implementation(name: str, implementations: dict[str, Any]) -> None:
    measured = hot_paths.measure(name, implementations, 2, 1e-5)  # the check compares the values
    assert list(measured.rounds) == list(implementations)
    assert all(len(values) == 2 and min(values) >= 0 for values in measured.rounds.values())


def test_a_wrong_value_is_a_failure(implementations: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementations["pure"].util, HOP, lambda name: name)
    with pytest.raises(FailureError, match="is_hop_by_hop: pure gives True, not False"):
        hot_paths.measure(HOP, implementations, 1, 1e-5)


def test_what_is_loaded_is_the_implementation_asked_for(leg: str) -> None:
    import fastwsgi

    before = dict(sys.modules)
    for name in ("pure", leg):
        loaded = hot_paths.load(name)
        assert loaded is not None
        assert loaded.twin.implementation == name
        assert loaded.util is not sys.modules.get("fastwsgi.util")
    assert {name: sys.modules[name] for name in before} == before
    assert fastwsgi.implementation == leg
    stock = hot_paths.load("wsgiref")
    assert stock is not None
    assert stock.util.__name__ == "wsgiref.util"


def test_an_implementation_that_is_not_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastwsgi._speedups", None)  # simulate a missing extension

    def no_speedups(name: str, *arguments: Any, **named: Any) -> Any:
        return imported(name, *arguments, **named)

    imported = hot_paths.importlib.import_module
    monkeypatch.setattr(hot_paths.importlib, "import_module", no_speedups)
    monkeypatch.setattr(sys, "implementation", type("Other", (), {"name": "other", "cache_tag": None})())
    assert hot_paths.load("compiled") is None


# ---- comparing ---------------------------------------------------------------------------------------


def report(*rows: Row) -> Report:
    return Report({"Python": "3"}, {"client": "c"}, list(rows))


def test_a_planted_slowdown_is_caught(implementations: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    old = report(hot_paths.measure(HOP, implementations, 9, 0.002))
    quick = implementations["pure"].util.is_hop_by_hop

    def slowed(name: str) -> Any:
        for _ in range(30):
            found = quick(name)
        return found

    monkeypatch.setattr(implementations["pure"].util, HOP, slowed)
    new = report(hot_paths.measure(HOP, implementations, 9, 0.002))
    found = compare(old, new, cli.FACTOR)
    assert [change.title for change in found.slower] == ["hot paths: is_hop_by_hop: pure"]
    assert "times slower" in str(found.slower[0])
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert cli.show_comparison(old, new, cli.FACTOR, is_part=False) == 1
    assert "hot paths: is_hop_by_hop: pure: " in output.getvalue()
    back = compare(new, old, cli.FACTOR)
    assert [change.title for change in back.faster] == ["hot paths: is_hop_by_hop: pure"]
    assert not back.slower


@pytest.mark.parametrize(
    ("old", "new", "is_slower"),
    [
        ([2, 2, 2, 2], [2, 2, 2, 2], False),
        ([2, 2, 2, 2], [2.4, 2.4, 2.4, 2.4], False),  # less than the factor
        ([2, 2, 2, 2], [2.6, 2.6, 2.6, 2.6], True),
        ([2, 2, 2, 2], [1, 2, 4, 8], False),  # unknown
        ([2], [4], False),  # the noise is unknown
        ([4, 4, 4, 4], [2, 2, 2, 2], False),
    ],
)
def test_slower_is_what_is_past_the_factor_and_the_noise(old: list[float], new: list[float], is_slower: bool) -> None:
    base = [8.0] * len(old)
    found = compare(report(row(wsgiref=base, pure=old)), report(row(wsgiref=base, pure=new)), 1.25)
    assert bool(found.slower) == is_slower
    assert found.compared == 1


def test_a_slower_machine_is_no_change() -> None:
    old, new = row(wsgiref=[8.0] * 9, pure=[2.0] * 9), row(wsgiref=[24.0] * 9, pure=[6.0] * 9)
    found = compare(report(old), report(new), 1.25)
    assert (found.slower, found.faster, found.compared) == ([], [], 1)


def test_what_depends_on_the_client_is_not_compared() -> None:
    def rate(value: float) -> Row:
        rounds = {"wsgiref": [1.0] * 9, "pure": [value] * 9}
        return Row("hello", "requests/s", "requests/s", rounds, more_is_better=True, is_steady=False)

    assert compare(report(rate(100)), report(rate(1)), 1.25).compared == 0


def test_what_is_gone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    old = report(row(wsgiref=[1, 1], pure=[1, 1], compiled=[1, 1]), row("gone", wsgiref=[1, 1], pure=[1, 1]))
    new = report(row(wsgiref=[1, 1], pure=[1, 1]))
    new.machine["Python"] = "4"
    missing = ["hot paths: work: compiled", "hot paths: gone: pure"]
    assert compare(old, new, 1.25).missing == missing
    assert cli.show_comparison(old, new, 1.25, is_part=False) == 0
    shown = capsys.readouterr().out
    assert all(f"{title}: not measured now" in shown for title in missing)
    assert "the old run had Python: 3" in shown
    cli.show_comparison(old, new, 1.25, is_part=True)
    assert "not measured now" not in capsys.readouterr().out


# ---- the report --------------------------------------------------------------------------------------


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = report(row(wsgiref=[1.5, 2], pure=[1, 1]))
    written.targets = [Target("hot paths", "work", "pure", 2)]
    written.failures, written.left_out = ["f"], {"compiled": "not built"}
    path = tmp_path / "report.json"
    written.save(path)
    assert read_report(path) == written


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"), ("", "not a report"), ("[]", "not a report"), ("{}", "not a report"),
        ("\xff{", "not a report"),
        ('{"format": 0}', "of another version"), ('{"format": 1, "rows": [{}], "targets": []}', "not a report"),
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(content: str | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(BadReportError, match=problem):
        read_report(path)


def test_everything_is_shown() -> None:
    rounds = {"wsgiref": [8.0] * 9, "pure": [4.0] * 9, "compiled": [1.0] * 9}
    shown = report(
        Row("hot paths", "work", "µs a call", rounds),
        Row("hello", "CPU time", "µs a request", rounds),
        Row("hello", "p99", "µs", {"wsgiref": [1.0]}, against=(), is_steady=False),
    )
    shown.targets = [
        Target("hot paths", "work", "compiled", 9), Target("hot paths", "work", "pure", 1),
        Target("hello", "CPU time", "compiled", 2), Target("hello", "CPU time", "other", 2),
    ]  # fmt: skip
    shown.failures, shown.left_out = ["hello: other: no answer"], {"peer": "not installed"}
    text = show(shown, {"hello": "13 bytes"})
    for part in (
        "Python: 3", "hello: 13 bytes", "9 MISSED", "1 met", "8.00 (8.00–8.00)", "2 met, 1 MISSED, 1 not measured",
        "hot paths: work: compiled at least 9 × wsgiref: MISSED", "FAILED: hello: other: no answer",
        "left out: peer: not installed", "each ratio should be the same within 10 %",
    ):  # fmt: skip
        assert part in text, text


def test_a_noisy_machine_is_told() -> None:
    noisy = row("noisy", wsgiref=[1.0, 2, 3, 4], pure=[1.0, 1, 1, 1])
    assert show_noise([row(wsgiref=[1.0] * 9, pure=[1.0] * 9), noisy]).startswith("TOO NOISY: 1 of 2 ratios")


@pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.version_info >= (3, 15), reason="no matplotlib for the tests"
)
def test_the_chart_has_each_row_and_each_server(tmp_path: Path) -> None:
    from fastwsgi.bench.chart import draw

    rounds = {"wsgiref": [8.0, 9], "pure": [4.0, 5], "compiled": [1.0, 1]}
    drawn = report(
        Row("hot paths", "a work", "µs a call", rounds),
        Row("hello", "CPU time", "µs a request", rounds),
        Row("hello", "requests/s", "requests/s", rounds, more_is_better=True),
    )
    path = tmp_path / "chart.svg"
    draw(drawn, path)
    text = path.read_text(encoding="utf-8")
    ET.fromstring(text)
    # matplotlib writes each text into a comment before its outlines.
    for label in ("a work, pure", "a work, compiled", "wsgiref", "hello: requests a second"):
        assert f"<!-- {label} -->" in text
    draw(drawn, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == text
    draw(drawn, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(2) as step:
        step("hello")
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(2) as step:
        step("hello")
        step("post")
    shown = capsys.readouterr().err
    assert "[###############...............] hello" in shown
    assert "[##############################] post" in shown
    assert shown.endswith("\r\x1b[K")


# ---- the servers -------------------------------------------------------------------------------------


@contextlib.contextmanager
def peer(*answers: bytes, asked: list[bytes] | None = None) -> Iterator[int]:
    """A server that sends these answers in turn to any requests, and then repeats the last one.

    asked: a list to which the requests are added.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)
    left = list(answers)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.settimeout(20)
                with client, contextlib.suppress(OSError):
                    while request := client.recv(65536):
                        if asked is not None:
                            asked.append(request)
                        client.sendall(left.pop(0) if len(left) > 1 else left[0])
                        if left[0].startswith(b"HTTP/1.0"):
                            break

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # close() alone doesn't end accept()
        listener.close()
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nDate: Mon, 05 Jun 2006 18:49:54 GMT\r\n"
GOOD = HEAD + b"Content-Length: 2\r\n\r\nok"
REQUEST = workloads.HELLO.request(80)


@pytest.mark.parametrize(
    "answer",
    [GOOD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", GOOD.replace(b"HTTP/1.1", b"HTTP/1.0")],
    ids=["length", "chunked", "until it closes"],
)
def test_the_client_takes_answers_of_every_framing(answer: bytes) -> None:
    later = answer.replace(b"05 Jun 2006 18:49:54", b"06 Jul 2007 19:50:55")
    with peer(answer, later) as port:
        client = Client(port, REQUEST)
        client.run(1, 0.05)
    assert client.failures == []
    assert client.latencies


@pytest.mark.parametrize(
    ("second", "failure"),
    [
        (GOOD.replace(b"ok", b"no"), "a different answer"),
        (GOOD.replace(b"ok", b"okay"), "a different answer"),
        (GOOD.replace(b"200 OK", b"500 No"), "a different answer"),
        (b"HTTP/1.0 200 OK\r\n\r\n", "a different answer"),
    ],
    ids=["other", "longer", "failed", "closed"],
)
def test_the_client_takes_no_other_answer(second: bytes, failure: str) -> None:
    with peer(GOOD, second) as port:
        client = Client(port, REQUEST)
        client.run(1, 10)
    assert len(client.failures) == 1
    assert client.failures[0].startswith(failure)


def test_the_client_sends_requests_that_differ() -> None:
    field = {"X-Forwarded-For": workloads.ADDRESS.place}
    workload = dataclasses.replace(workloads.HELLO, fields=field, varies=workloads.ADDRESS)
    asked: list[bytes] = []
    with peer(GOOD.replace(b"ok", b"ok" * 7), asked=asked) as port:
        load.run_load(workload, port, 0.2, by="the built-in client")
        first, *others = asked
        assert first == workload.request(port, 0)
        assert set(others) <= {workload.request(port, number) for number in range(5000)}
    assert len(set(others[:1000])) == len(others[:1000])
    assert b"X-Forwarded-For: 10.3.2.1\r\n" in workload.request(80, 3 << 16 | 2 << 8 | 1)


def test_the_client_wants_200() -> None:
    with peer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as port, pytest.raises(ValueError, match="404"):
        Client(port, REQUEST)


def test_failures_of_the_client_are_failures_of_the_run() -> None:
    with peer(GOOD, GOOD.replace(b"ok", b"no")) as port, pytest.raises(FailureError, match="a different answer"):
        load.run_load(workloads.HELLO, port, 0.2, by="the built-in client")
    with pytest.raises(FailureError, match="refused"):
        load.run_load(workloads.HELLO, servers.free_port(), 0.2, by="the built-in client")


def test_failures_that_wrk_sees_are_failures_of_the_run() -> None:
    program_path("wrk")
    with (
        peer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as port,
        pytest.raises(FailureError, match="of them 4xx or 5xx"),
    ):
        load.run_load(workloads.HELLO, port, 0.3, by="wrk")


def test_an_answer_is_compared_in_full() -> None:
    with peer(GOOD) as port, pytest.raises(FailureError, match="wrong answer: 200, 2 bytes: b'ok'"):
        workloads.check_answer(workloads.HELLO, port)


CLIENTS = ["wrk", "the built-in client"]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("group", ["hello", "connections", "post"])
def test_servers_are_measured(group: str, client: str, leg: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if client == "wrk":
        program_path("wrk")
    monkeypatch.setattr(load, "client_name", lambda: client)
    monkeypatch.setattr(os, "environ", program_environment())
    names = ["wsgiref", leg, f"{leg}, 4 threads"]
    steps: list[None] = []
    rows, failures = servers.measure(group, names, 2, 0.2, lambda: steps.append(None))
    assert failures == []
    assert [each.name for each in rows] == ["CPU time", "requests/s", "p50", "p99"]
    for each in rows:
        assert list(each.rounds) == names
        assert all(len(values) == 2 and min(values) > 0 for values in each.rounds.values())
    assert len(steps) == 6


def test_a_server_that_fails_has_no_numbers_and_fails_the_run(
    leg: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load, "client_name", lambda: "the built-in client")
    monkeypatch.setattr(os, "environ", program_environment())
    broken = {"wsgiref": ("wsgiref", "{port}", "no such application"), leg: ("fastwsgi", "{port}", "post")}
    monkeypatch.setattr(servers, "PROGRAMS", broken)
    monkeypatch.setattr(cli, "QUICK_SERVERS", {"hello": tuple(broken)})
    monkeypatch.setattr(cli, "ALL_SERVERS", tuple(broken))
    assert cli.main(["--quick", "--only", "hello"]) == 1
    shown = capsys.readouterr().out
    assert "FAILED: hello: wsgiref: does not start" in shown
    assert f"FAILED: hello: {leg}: wrong answer: 500" in shown


# ---- the command line --------------------------------------------------------------------------------


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = program_environment(COLUMNS="200")
    return run_python("-m", "fastwsgi.bench", *arguments, cwd=cwd, timeout=100, environment=environment)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a baseline of one hot path."""
    directory = tmp_path_factory.mktemp("bench")
    done = bench("--quick", "--only", "hop_by", "--save-baseline", "--json", "report.json", cwd=directory)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    assert "is_hop_by_hop" in done.stdout
    assert "FileWrapper" not in done.stdout
    return directory


def test_a_report_and_a_baseline_are_saved(baseline: Path) -> None:
    saved = read_report(baseline / cli.BASELINE)
    assert [each.name for each in saved.rows] == [HOP]
    assert saved == read_report(baseline / "report.json")
    assert {"processor", "system", "Python", "fastwsgi"} <= saved.machine.keys()


def test_the_exit_status_tells_what_got_slower(baseline: Path) -> None:
    saved = json.loads((baseline / cli.BASELINE).read_text(encoding="utf-8"))
    for name, values in saved["rows"][0]["rounds"].items():
        if name != "wsgiref":
            values[:] = [value / 50 for value in values]
    (baseline / "faster.json").write_text(json.dumps(saved), encoding="utf-8")
    done = bench("--quick", "--only", "hop_by", "--compare", "faster.json", cwd=baseline)
    assert done.returncode == 1, done.stdout
    assert "times slower" in done.stdout
    done = bench("--quick", "--only", "hop_by", "--compare", "--factor", "20", cwd=baseline)
    assert done.returncode == 0, done.stdout
    assert "compared with the old run: 0 of " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--only", "nothing"], "nothing has 'nothing' in its name; there is parse a 10-field head"),
        (["--compare"], "fastwsgi-bench.json: No such file"),
        (["--compare", "bad.json"], "bad.json: not a report"),
        (["--factor", "1"], "--factor must be over 1"),
        (["--factor", "x"], "invalid float value"),
        (["--plot", "chart.jpeg"], "--plot must end in .svg or .png, not 'chart.jpeg'"),
        (["--json", "no/such/directory.json"], "no/such/directory.json: No such file or directory"),
        (["extra"], "unrecognized arguments: extra"),
    ],
)
def test_one_line_says_what_is_wrong(arguments: list[str], problem: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("?", encoding="ascii")
    done = bench("--quick", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_chart_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--quick", "--only", "hop_by", "--plot", "chart.svg"])
    assert ended.value.code == 2
    assert "--plot needs matplotlib: pip install 'fastwsgi-toolkit[bench]'" in capsys.readouterr().err




# ---- the README --------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="the comparison of servers needs POSIX")
def test_the_readme_shows_the_committed_runs() -> None:
    from bench import readme

    text = readme.README.read_text(encoding="utf-8")
    assert readme.with_blocks(text) == text, "python -m bench.readme writes it anew"
    with pytest.raises(SystemExit, match="no place for hot_paths"):
        readme.with_blocks(text.replace("<!-- begin hot_paths -->", ""))
