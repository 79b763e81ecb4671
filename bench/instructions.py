"""Count the instructions of a request and of each hot path, and fail if they have grown.

    python -m bench.instructions [--only TEXT] [--limit FACTOR] [--against COMMIT] [--save] [--repeat]
    python -m bench.instructions --profile ROW

What is counted is in ``bench/counted.py``, by valgrind's callgrind. The counts are compared with those that
``bench/instructions.json`` has for this environment: the same build of Python, compiler, Cython, libc and valgrind. For
any other environment it's the code of the last commit that is built, counted and compared with; growth that a change of
``bench/instructions.json`` since that commit admits, is admitted there, too.

The exit status is 1 if something has grown, or if the rows aren't those of the baseline; 2 if nothing can be counted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.counted import JOBS

ROOT = Path(__file__).resolve().parents[1]
BASELINE = ROOT / "bench" / "instructions.json"
LIMIT = 1.03
#: So exact two runs have to be.
REPEATABLE = 1.005
# Where things happen to lie in memory decides what Python's caches hold. The least of so many layouts is taken.
LAYOUTS = 3
# In seconds, many times what it takes.
_TIMEOUT = 900
# A line of callgrind_annotate's: a count, a share, and FILE:FUNCTION [OBJECT].
_ANNOTATED = re.compile(r"^ *([\d,]+) \([ \d.]+%\)  (?:.*:)?([^:/ ]+(?: \[clone.*?\])?)(?: \[(?:.*/)?(.+)\])?$")

Counts = dict[str, float]


class UncountableError(Exception):
    """Nothing can be counted here, and why."""


@dataclass(frozen=True)
class Finding:
    """What has become of a row. was, now: its counts, None if there is none."""

    name: str
    was: float | None
    now: float | None
    #: By what factor it may have grown.
    limit: float

    @property
    def ratio(self) -> float:
        return self.now / self.was if self.was and self.now else 1.0

    @property
    def verdict(self) -> str:
        """ "grown", "shrunk", "new", "gone", or "" for what is as it was."""
        if self.was is None:
            return "new"
        if self.now is None:
            return "gone"
        if self.ratio > self.limit:
            return "grown"
        return "shrunk" if self.ratio < 1 / self.limit else ""

    def __str__(self) -> str:
        was, now = ("" if count is None else f"{count:,.0f}" for count in (self.was, self.now))
        change = f"{self.ratio - 1:+.1%}" if self.was and self.now else ""
        return f"{self.name:<40}{was:>12}{now:>12}{change:>9}  {self.verdict}".rstrip()


def compare(
    was: Mapping[str, float], now: Mapping[str, float], limit: float, admitted: Mapping[str, float] | None = None
) -> list[Finding]:
    """Every row of either side. admitted: by what factors some may have grown besides."""
    factors = admitted or {}
    names = [*now, *(name for name in was if name not in now)]
    return [Finding(name, was.get(name), now.get(name), limit * factors.get(name, 1.0)) for name in names]


def admitted_growth(before: Mapping[str, Mapping[str, float]], now: Mapping[str, Mapping[str, float]]) -> Counts:
    """By what factors rows have grown between two baselines, in that environment where they did so most."""
    factors: Counts = {}
    for environment in before.keys() & now.keys():
        for name in before[environment].keys() & now[environment].keys():
            factor = now[environment][name] / before[environment][name]
            factors[name] = max(factors.get(name, 1.0), factor)
    return factors


# ---- counting ----------------------------------------------------------------------------------------


def _valgrind() -> str:
    """Where it is; "" if there is none."""
    return shutil.which("valgrind") or ""


def environment() -> str:
    """Of what the counts depend besides our code. Raises UncountableError where there is no callgrind or no twin."""
    if not (_valgrind() and shutil.which("cc")):
        raise UncountableError("valgrind and a C compiler are needed: apt-get install valgrind gcc libc6-dev")
    if platform.python_implementation() != "CPython":
        raise UncountableError("only CPython is counted: its instructions don't depend on what is compiled when")
    found = importlib.util.find_spec("fastwsgi._speedups")
    if found is None or found.origin is None:
        raise UncountableError("the compiled twin isn't built: python setup.py build_ext --inplace")
    twin = Path(found.origin).read_bytes()
    cython = re.search(rb"_cython_(\d+(?:_\d+)*)", twin)
    compiler = re.search(rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+", twin)
    has_avx2 = False  # of which libc makes use
    with contextlib.suppress(OSError):
        has_avx2 = " avx2 " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    parts = [
        f"{platform.python_implementation()} {' '.join(sys.version.split())}",
        f"Cython {cython[1].decode().replace('_', '.') if cython else '?'}",
        compiler[0].decode() if compiler else "an unknown compiler",
        " ".join(platform.libc_ver()),
        f"{platform.machine()}{' with AVX2' if has_avx2 else ''}",
        run(_valgrind(), "--version").strip(),
    ]
    return ", ".join(parts)


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What a command prints. Raises UncountableError with what it complains about if it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd or ROOT, env=env, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UncountableError(str(error)) from error
    if done.returncode:
        raise UncountableError(f"{' '.join(map(str, command))[:200]}\n{done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass(frozen=True)
class Process:
    """One process of bench.counted: some rows of one twin, in one of several layouts of memory."""

    twin: str
    layout: int
    names: tuple[str, ...]

    @property
    def packages(self) -> str:
        """The directory of packages that the rows need, where the process doesn't look by itself; "" if none does."""
        found = [importlib.util.find_spec(package) for name in self.names for package in JOBS[name].packages]
        return next((str(Path(spec.origin).parents[1]) for spec in found if spec and spec.origin), "")

    def count(self, root: Path, library: Path, folder: Path) -> dict[str, list[float] | str]:
        """Of each row the instructions of a call in each round, or why there are none.

        root: the checkout that is counted; folder: for callgrind's files.
        """
        folder.mkdir()
        # Nothing else, for a server copies the process's variables into each environ.
        variables = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "LD_PRELOAD": str(library)}
        variables |= {"PYTHONHASHSEED": str(self.layout)}
        callgrind = [_valgrind(), "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no"]
        files = [f"--callgrind-out-file={folder}/round", f"--log-file={folder}/log"]
        python = [sys.executable, "-S", "-s", "-m", "bench.counted", library, self.twin, self.packages, *self.names]
        told = json.loads(run(*callgrind, *files, *python, cwd=root, env=variables))
        totals: dict[str, list[int]] = {}
        for file in folder.glob("round.*"):
            name, total = read_totals(file.read_text(encoding="utf-8", errors="replace"))
            totals.setdefault(name, []).append(total)
        return {
            name: each.get("error")
            or [(total - each["blanks"] * min(totals[each["blank"]])) / each["calls"] for total in totals[name]]
            for name, each in told.items()
        }


def read_totals(text: str) -> tuple[str, int]:
    """The name that dump() gave to one of callgrind's files, and the instructions in it."""
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    total = re.search(r"^(?:summary|totals): (\d+)$", text, re.MULTILINE)
    if name is None or total is None:
        raise UncountableError(f"callgrind has written {text[:500]!r}")
    return name[1], int(total[1])


@contextlib.contextmanager
def library() -> Iterator[Path]:
    """callgrind.c, compiled, in a directory that is there for a while."""
    with tempfile.TemporaryDirectory(prefix="instructions-") as name:
        compiled = Path(name) / "callgrind.so"
        run("cc", "-O1", "-shared", "-fPIC", "-o", compiled, ROOT / "bench" / "callgrind.c")
        yield compiled


def left_out(names: Iterable[str]) -> dict[str, str]:
    """The rows that can't be counted because a package isn't installed, and why."""
    needed = [(name, package) for name in names for package in JOBS[name].packages]
    return {name: f"{package} isn't installed" for name, package in needed if not importlib.util.find_spec(package)}


def measure(names: Iterable[str], root: Path = ROOT, tolerant: bool = False) -> Counts:
    """The instructions of each row. tolerant: leave out those that can't be counted, instead of raising."""
    run(sys.executable, "-m", "compileall", "-q", "fastwsgi", "bench", cwd=root)  # so that each run finds the same
    together: dict[tuple[str, int], list[str]] = {}
    for name in names:
        together.setdefault((JOBS[name].twin, JOBS[name].process), []).append(name)
    processes = [
        Process(twin, layout, tuple(each)) for (twin, _), each in together.items() for layout in range(LAYOUTS)
    ]
    with library() as compiled, ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [
            pool.submit(process.count, root, compiled, compiled.parent / str(number))
            for number, process in enumerate(processes)
        ]
        results = [future.result() for future in futures]
    counts: Counts = {}
    for result in results:
        for name, rounds in result.items():
            if not isinstance(rounds, str):
                counts[name] = min(counts.get(name, rounds[0]), *rounds)
            elif not tolerant:
                raise UncountableError(f"{name}: {rounds}")
    return {name: round(counts[name]) for name in names if name in counts}


def profile(name: str) -> None:
    """Print the functions that a row spends its instructions in, without what they call."""
    with library() as compiled:
        folder = compiled.parent / "0"
        rounds = Process(JOBS[name].twin, 0, (name,)).count(ROOT, compiled, folder)[name]
        if isinstance(rounds, str):
            raise UncountableError(f"{name}: {rounds}")
        files = [file for file in folder.glob("round.*") if read_totals(file.read_text(errors="replace"))[0] == name]
        listing = run("callgrind_annotate", "--threshold=100", files[0])
        total = read_totals(files[0].read_text(errors="replace"))[1]
    print(f"{name}: {min(rounds):,.0f} instructions a call")
    functions: dict[str, int] = {}
    for line in listing.splitlines():
        found = _ANNOTATED.match(line)
        if found and "PROGRAM TOTALS" not in line:
            function = f"{found[2]}  {found[3] or ''}"
            functions[function] = functions.get(function, 0) + int(found[1].replace(",", ""))
    # Those that were running when counting began are said to have run all of it.
    ordered = sorted(((count, function) for function, count in functions.items() if count < total), reverse=True)
    for count, function in ordered[:30]:
        print(f"{count / total:6.1%} {count / total * min(rounds):10,.0f}  {function}")


# ---- what to compare with ----------------------------------------------------------------------------


def reference() -> str:
    """The commit before what is checked out: HEAD, if what is checked out is changed."""
    return "HEAD" if run("git", "status", "--porcelain", "--", "fastwsgi", "setup.py").strip() else "HEAD^"


def baselines(commit: str) -> dict[str, Counts]:
    """The committed counts, by environment; none before there were any."""
    path = BASELINE.relative_to(ROOT).as_posix()
    if not run("git", "ls-tree", "--name-only", commit, "--", path).strip():
        return {}
    return json.loads(run("git", "show", f"{commit}:{path}"))  # type: ignore[no-any-return]


def measure_commit(commit: str, names: Iterable[str]) -> Counts:
    """The instructions of each row with the package as it was in a commit; without those that it doesn't have."""
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        root = Path(folder) / "checkout"
        root.mkdir()
        run("git", "archive", "--format=tar", "-o", Path(folder) / "checkout.tar", commit)
        shutil.unpack_archive(Path(folder) / "checkout.tar", root)
        for counting in ("bench", "fastwsgi/bench"):  # what counts is the same, what is counted isn't
            shutil.rmtree(root / counting, ignore_errors=True)
            shutil.copytree(ROOT / counting, root / counting, ignore=shutil.ignore_patterns("__pycache__"))
        built = {**os.environ, "FASTWSGI_REQUIRE_SPEEDUPS": "1", "FASTWSGI_PURE": ""}
        run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=root, env=built)
        return measure(names, root, tolerant=True)


def save(path: Path, key: str, counts: Counts, is_whole: bool) -> None:
    """Write an environment's counts. is_whole: whether they are all rows; if not, the others of JOBS stay."""
    known: dict[str, Counts] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = counts if is_whole else {**known.get(key, {}), **counts}
    known[key] = {name: rows[name] for name in JOBS if name in rows}
    path.write_text(json.dumps(dict(sorted(known.items())), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check(counts: Counts, key: str, known: Mapping[str, Counts], options: argparse.Namespace) -> list[Finding]:
    """Compare with the baseline, or with a commit. Raises UncountableError if there is none."""
    if key in known and not options.against:
        out = left_out(name for name in known[key] if name in JOBS)
        was = {name: count for name, count in known[key].items() if options.only in name and name not in out}
        return compare(was, counts, options.limit)
    if key not in known:
        print(f"{BASELINE.name} has no counts for this environment: an earlier commit's are counted now.")
    commit = options.against or reference()
    was = measure_commit(commit, counts)
    if not was:
        raise UncountableError(f"nothing of {commit} can be compared with")
    print(f"Compared with {run('git', 'log', '-1', '--format=%h, %s', commit).strip()}")
    findings = compare(was, counts, options.limit, admitted_growth(baselines(commit), known))
    return [finding for finding in findings if finding.verdict != "new"]


# ---- the command -------------------------------------------------------------------------------------


def report(findings: Sequence[Finding]) -> int:
    """Print what was found; the exit status."""
    print(f"{'instructions a call':<40}{'was':>12}{'now':>12}")
    for finding in findings:
        print(finding)
    failures = [finding for finding in findings if finding.verdict in ("grown", "new", "gone")]
    if failures:
        print("\nNot as it was:")
        for finding in failures:
            print(finding)
        print("If that is meant to be: python -m bench.instructions --save, and commit it with what made it so.")
    elif any(finding.verdict == "shrunk" for finding in findings):
        print("\nThere is less to do: hold on to it with python -m bench.instructions --save.")
    return 1 if failures else 0


def repeat(counts: Counts) -> int:
    """Count all once more, and print how much the two runs differ; the exit status."""
    findings = compare(counts, measure(counts), REPEATABLE)
    for finding in findings:
        print(finding)
    most = max(abs(finding.ratio - 1) for finding in findings)
    print(f"\nTwo runs differ by {most:.2%} at most.")
    return 1 if any(finding.verdict for finding in findings) else 0


def main(arguments: Sequence[str] | None = None, baseline: Path = BASELINE) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name holds this text")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"by what factor a row may grow ({LIMIT})")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit, and not with the baseline")
    parser.add_argument("--save", action="store_true", help=f"write the counts to {BASELINE.name}")
    parser.add_argument("--repeat", action="store_true", help="count twice, and print how much that differs")
    parser.add_argument("--profile", metavar="ROW", choices=list(JOBS), help="print the functions that a row runs")
    options = parser.parse_args(arguments)
    names = [name for name in JOBS if options.only in name]
    if not names:
        parser.error(f"no row has {options.only!r} in its name")
    try:
        key = environment()
        print(key)
        out = left_out([options.profile] if options.profile else names)
        for name, why in out.items():
            print(f"left out: {name}: {why}")
        names = [name for name in names if name not in out]
        if options.profile:
            if not out:
                profile(options.profile)
            return 2 if out else 0
        if not names:
            return 2
        counts = measure(names)
        if options.repeat:
            return repeat(counts)
        if options.save:
            save(baseline, key, counts, is_whole=not (options.only or out))
            for name, count in counts.items():
                print(f"{name:<40}{count:>12,}")
            return 0
        known = json.loads(baseline.read_text(encoding="utf-8")) if baseline.exists() else {}
        return report(check(counts, key, known, options))
    except UncountableError as error:
        print(f"can't count: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
