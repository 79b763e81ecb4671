"""Counting instructions: two counts are the same, and growth is found."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import instructions, production
from bench.counted import JOBS, PRODUCTION
from bench.instructions import (
    ROOT,
    Counts,
    Process,
    UncountableError,
    admitted_growth,
    compare,
    left_out,
    main,
    measure,
    read_totals,
)
from fastwsgi.bench import load
from fastwsgi.bench.results import FailureError
from programs import program_path, run

# The command counts both twins. Counted code runs fifty times as long.
pytestmark = [pytest.mark.compiled, pytest.mark.timeout(400)]

LANE, CALL, PURE = "lane: hello", "compiled: is_hop_by_hop", "pure: is_hop_by_hop"
WORKER = "lane: gunicorn's worker"


@pytest.fixture
def one_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    program_path("valgrind")
    monkeypatch.setattr(instructions, "LAYOUTS", 1)


def copy_to(folder: Path) -> None:
    for name in ("bench", "fastwsgi"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


# ---- counting ----------------------------------------------------------------------------------------


@pytest.mark.source
@pytest.mark.usefixtures("one_layout")
def test_two_runs_count_the_same() -> None:
    first, second = measure([LANE, CALL]), measure([LANE, CALL])
    assert first.keys() == {LANE, CALL}
    assert all(not finding.verdict for finding in compare(first, second, instructions.REPEATABLE))
    assert 100 < first[CALL] < first[LANE]


@pytest.mark.source
@pytest.mark.usefixtures("one_layout")
def test_a_planted_growth_is_found(tmp_path: Path) -> None:
    copy_to(tmp_path)
    names = ["pure: Headers in", PURE]
    before = measure(names, tmp_path)
    twin = tmp_path / "fastwsgi" / "_fallback.py"
    text, count = re.subn(
        r'(def is_hop_by_hop\(.*\n(?:    """.*"""\n)?)', r"\1    str(1)\n", twin.read_text(encoding="utf-8")
    )
    assert count == 1
    twin.write_text(text, encoding="utf-8")
    verdicts = {finding.name: finding.verdict for finding in compare(before, measure(names, tmp_path), 1.03)}
    assert verdicts == {"pure: Headers in": "", PURE: "grown"}


@pytest.mark.source
@pytest.mark.usefixtures("one_layout")
def test_a_wrong_answer_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_to(tmp_path)
    workloads = tmp_path / "fastwsgi" / "bench" / "workloads.py"
    text = workloads.read_text(encoding="utf-8").replace('"200 OK", [("Content-Type"', '"500 Bad", [("Content-Type"')
    workloads.write_text(text, encoding="utf-8")
    told = []
    count = Process.count
    monkeypatch.setattr(Process, "count", lambda *arguments: told.append(count(*arguments)) or told[-1])
    assert measure([LANE, CALL], tmp_path, tolerant=True).keys() == {CALL}
    assert str(told[0][LANE]).startswith("ValueError: wrong answer")
    monkeypatch.setattr(Process, "count", lambda *arguments: told[0])
    with pytest.raises(UncountableError, match="lane: hello: ValueError: wrong answer"):
        measure([LANE, CALL], tmp_path)


@pytest.mark.source
@pytest.mark.usefixtures("one_layout")
def test_what_production_adds_is_counted() -> None:
    names = [name for name in JOBS if name.startswith("lane: ") and name.removeprefix("lane: ") in PRODUCTION]
    assert len(names) == len(PRODUCTION)
    names = [name for name in names if name not in left_out(names)]
    counts = measure(names)
    assert counts.keys() == set(names)
    assert counts["lane: access log, common"] < counts["lane: access log, json"]
    assert counts["lane: no X-Forwarded-For"] < counts["lane: trusted X-Forwarded-For"]


def test_what_callgrind_writes_is_read() -> None:
    text = "version: 1\ndesc: Trigger: Client Request: lane: hello\n\nevents: Ir\nsummary: 1234\n\nfn=(1) f\n1 1234\n"
    assert read_totals(text) == ("lane: hello", 1234)
    with pytest.raises(UncountableError):
        read_totals("desc: Trigger: Program termination\nsummary: 5\n")


# ---- comparing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now", "verdict"),
    [(1000, 1000, ""), (1000, 1030, ""), (1000, 1031, "grown"), (1000, 971, ""), (1000, 970, "shrunk"),
     (None, 1000, "new"), (1000, None, "gone")],
)  # fmt: skip
def test_what_became_of_a_row(was: int | None, now: int | None, verdict: str) -> None:
    sides = [{} if count is None else {"row": count} for count in (was, now)]
    (finding,) = compare(sides[0], sides[1], 1.03)
    assert finding.verdict == verdict
    assert str(finding).endswith(verdict)


def test_growth_is_admitted_by_the_baseline_that_says_so() -> None:
    before = {"here": {"a": 100.0, "b": 100.0, "c": 100.0}, "gone": {"a": 1.0}}
    now = {"here": {"a": 110.0, "b": 90.0}, "new": {"c": 900.0}}
    factors = admitted_growth(before, now)
    assert factors == {"a": 1.1, "b": 1.0}
    found = compare({"a": 200, "b": 200, "c": 200}, {"a": 226, "b": 206, "c": 207}, 1.03, factors)
    assert [finding.verdict for finding in found] == ["", "", "grown"]
    assert [finding.verdict for finding in compare({"a": 200}, {"a": 227}, 1.03, factors)] == ["grown"]


# ---- the command -------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Fake counts, in an environment called "here"."""
    counts: Counts = {LANE: 1000, CALL: 100}
    monkeypatch.setattr(instructions, "environment", lambda: "here")
    monkeypatch.setattr(instructions, "measure", lambda names: {name: counts[name] for name in names if name in counts})
    return counts


def written(path: Path, known: dict[str, Counts]) -> Path:
    path.write_text(json.dumps(known), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("known", "status", "told"),
    [({LANE: 1000, CALL: 100}, 0, ""),
     ({LANE: 1030, CALL: 103}, 0, ""),
     ({LANE: 900, CALL: 100}, 1, r"\+11.1%  grown"),
     ({LANE: 2000, CALL: 100}, 0, "hold on to it"),
     ({LANE: 1000}, 1, f"{CALL}.*new"),
     ({LANE: 1000, CALL: 100, "lane: unknown": 5}, 1, "lane: unknown.*gone")],
)  # fmt: skip
def test_the_status_says_whether_all_is_as_it_was(
    counted: Counts, tmp_path: Path, capsys: pytest.CaptureFixture[str], known: Counts, status: int, told: str
) -> None:
    baseline = written(tmp_path / "baseline.json", {"elsewhere": {LANE: 1}, "here": known})
    assert main([], baseline) == status
    assert re.search(told, capsys.readouterr().out)


def test_a_higher_limit(counted: Counts, tmp_path: Path) -> None:
    baseline = written(tmp_path / "baseline.json", {"here": {LANE: 900, CALL: 100}})
    assert main(["--limit", "1.2"], baseline) == 0
    assert main(["--only", "is_hop"], baseline) == 0


def test_saved_counts_are_those_compared_with(counted: Counts, tmp_path: Path) -> None:
    baseline = written(tmp_path / "baseline.json", {"here": {LANE: 5, "lane: unknown": 5}, "elsewhere": {LANE: 1}})
    assert main(["--save"], baseline) == 0
    assert main([], baseline) == 0
    counted[CALL], counted[LANE] = 200, 3000
    assert main(["--save", "--only", CALL], baseline) == 0
    assert json.loads(baseline.read_text(encoding="utf-8")) == {"elsewhere": {LANE: 1}, "here": {LANE: 1000, CALL: 200}}
    assert main(["--only", CALL], baseline) == 0
    assert main([], baseline) == 1


def test_without_valgrind(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main([]) == 2
    assert "valgrind and a C compiler are needed" in capsys.readouterr().err


@pytest.fixture
def no_gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gunicorn" else find(name))


@pytest.mark.usefixtures("no_gunicorn")
def test_a_row_without_its_package_is_left_out(
    counted: Counts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {LANE: 1000, CALL: 100, WORKER: 5000}
    baseline = written(tmp_path / "baseline.json", {"here": known})
    assert main([], baseline) == 0
    assert f"left out: {WORKER}: gunicorn isn't installed" in capsys.readouterr().out
    assert main(["--save"], baseline) == 0
    assert json.loads(baseline.read_text(encoding="utf-8")) == {"here": known}
    assert main(["--only", WORKER], baseline) == main(["--profile", WORKER], baseline) == 2


def test_no_row_of_that_name() -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--only", "no such row"])
    assert raised.value.code == 2


def test_the_committed_baseline_has_every_row() -> None:
    known = json.loads(instructions.BASELINE.read_text(encoding="utf-8"))
    assert any(list(counts) == list(instructions.JOBS) for counts in known.values())
    assert all(counts.keys() <= instructions.JOBS.keys() for counts in known.values())


# ---- ratios of rows -----------------------------------------------------------------------------------


def test_a_missed_target_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    counts = dict.fromkeys(production.rows(), 1000.0)
    assert production.show_goals(counts) == 0
    assert "MISSED" not in capsys.readouterr().out
    counts["lane: access log, json"] = 4001.0
    assert production.show_goals(counts) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "MISSED" in line] == [line for line in lines if line.startswith("json / common")]


def test_saved_counts_have_all_that_ratios_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(production.rows()) <= JOBS.keys()
    monkeypatch.setattr(production, "environment", lambda: "here")
    counts = dict.fromkeys(production.rows(), 1000)
    assert production.saved_counts(written(tmp_path / "baseline.json", {"here": counts})) == counts
    with pytest.raises(UncountableError, match="lane: access log, combined"):
        production.saved_counts(written(tmp_path / "baseline.json", {"here": {LANE: 1000}}))


# ---- CPU time ----------------------------------------------------------------------------------------


@pytest.mark.source
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux to read another process's CPU time")
def test_the_cpu_time_of_logs_and_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "client_name", lambda: "the built-in client")
    times = production.measure_times(production.CASES, 2, 0.1)
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in times.values())
    shown = production.show_times(production.CASES, times).splitlines()
    assert [line.split("  ")[0] for line in shown[1:]] == list(production.CASES)
    monkeypatch.setattr(production, "count_lines", lambda path: 0)
    with pytest.raises(FailureError, match="json: 0 lines in the log"):
        production.measure_times({"json": production.CASES["json"]}, 1, 0.1)
    wrong = dataclasses.replace(production.HELLO, answer=b"another")
    with pytest.raises(FailureError, match="wrong: wrong answer"):
        production.measure_times({"wrong": production.Case(wrong)}, 1, 0.1)


# ---- in an environment without a baseline --------------------------------------------------------------


@pytest.fixture
def repository(counted: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Counts], Path]:
    """A repository, a function that commits a baseline for another environment, and the path of the baseline."""
    path = tmp_path / "bench" / "instructions.json"
    path.parent.mkdir()
    (tmp_path / "fastwsgi").mkdir()
    monkeypatch.setattr(instructions, "ROOT", tmp_path)
    monkeypatch.setattr(instructions, "BASELINE", path)
    run("git", "init", "-q", cwd=tmp_path, check=True)

    def commit(counts: Counts) -> Path:
        written(path, {"elsewhere": counts})
        (tmp_path / "fastwsgi" / "code").write_text(str(counts))
        name = ["-c", "user.name=a", "-c", "user.email=b"]
        run("git", "add", ".", cwd=tmp_path, check=True)
        run("git", *name, "commit", "-q", "-m", "counts", cwd=tmp_path, check=True)
        return path

    return commit


def test_an_earlier_commit_is_compared_with(
    repository: Callable[[Counts], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commits = []

    def measured(commit: str, names: Counts) -> Counts:
        commits.append(commit)
        return {LANE: 900}  # a row with another name was missing

    monkeypatch.setattr(instructions, "measure_commit", measured)
    repository({LANE: 90, CALL: 10})
    path = repository({LANE: 91, CALL: 10})
    assert main([], path) == 1
    assert "no counts for this environment" in capsys.readouterr().out
    written(path, {"elsewhere": {LANE: 100, CALL: 10}})
    assert main([], path) == 0  # 1000 for 900, as 100 for 90
    assert main(["--against", "HEAD"], path) == 0  # as 100 for 91, and slightly more
    written(path, {"elsewhere": {LANE: 95, CALL: 10}})
    (path.parents[1] / "fastwsgi" / "code").write_text("changed")
    assert main([], path) == 1  # 95 for 91 is not enough
    assert commits == ["HEAD^", "HEAD^", "HEAD", "HEAD"]


def test_nothing_to_compare_with(
    repository: Callable[[Counts], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = repository({LANE: 90})
    assert main([], path) == 2  # the first commit
    monkeypatch.setattr(instructions, "measure_commit", lambda commit, names: {})
    assert main(["--against", "HEAD"], path) == 2
    assert "nothing of HEAD can be compared with" in capsys.readouterr().err
