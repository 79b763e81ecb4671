"""Count the instructions of a request and of each hot path, and fail if a count has grown.

    python -m bench.instructions [--only TEXT] [--limit FACTOR] [--against COMMIT] [--save] [--repeat]
    python -m bench.instructions --profile ROW

valgrind's callgrind counts the work in ``bench/counted.py``. The counts are compared with the baseline in
``bench/instructions.json`` for this environment: the same build of Python, compiler, Cython, libc and valgrind. Without
a baseline for this environment, the code of the last commit is built, counted and compared with. Then growth is
accepted as far as a change of ``bench/instructions.json`` since that commit accepts it for another environment.

The exit status is 1 if a count has grown or the rows aren't those of the baseline, and 2 if nothing can be counted.
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
#: The largest ratio of two runs of the same code.
REPEATABLE = 1.005
# The memory layout decides which of Python's caches hit. The least count of this many layouts is taken.
LAYOUTS = 3
# In seconds, many times as long as needed.
_TIMEOUT = 900
# A line of callgrind_annotate's output: a count, a percentage, and FILE:FUNCTION [OBJECT].
_ANNOTATED = re.compile(r"^ *([\d,]+) \([ \d.]+%\)  (?:.*:)?([^:/ ]+(?: \[clone.*?\])?)(?: \[(?:.*/)?(.+)\])?$")

Counts = dict[str, float]


class UncountableError(Exception):
    """Nothing can be counted here; the text gives the reason."""


@dataclass(frozen=True)
class Finding:
    """How a row has changed. was, now: its counts, or None."""

    name: str
    was: float | None
    now: float | None
    #: The largest factor by which it may grow.
    limit: float

    @property
    def ratio(self) -> float:
        return self.now / self.was if self.was and self.now else 1.0

    @property
    def verdict(self) -> str:
        """ "grown", "shrunk", "new", "gone", or "" for no change."""
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
    """Compare the rows of both sides. admitted: additional factors by which some rows may grow."""
    factors = admitted or {}
    names = [*now, *(name for name in was if name not in now)]
    return [Finding(name, was.get(name), now.get(name), limit * factors.get(name, 1.0)) for name in names]


def admitted_growth(before: Mapping[str, Mapping[str, float]], now: Mapping[str, Mapping[str, float]]) -> Counts:
    """The factors by which rows have grown between two baselines, each in the environment where it grew most."""
    factors: Counts = {}
    for environment in before.keys() & now.keys():
        for name in before[environment].keys() & now[environment].keys():
            factor = now[environment][name] / before[environment][name]
            factors[name] = max(factors.get(name, 1.0), factor)
    return factors


# ---- counting ----------------------------------------------------------------------------------------


def _valgrind() -> str:
    """The path of valgrind, or "" if it is missing."""
    return shutil.which("valgrind") or ""


def environment() -> str:
    """What the counts depend on besides our code. Raises UncountableError without callgrind or the compiled twin."""
    if not (_valgrind() and shutil.which("cc")):
        raise UncountableError("valgrind and a C compiler are needed: apt-get install valgrind gcc libc6-dev")
    if platform.python_implementation() != "CPython":
        raise UncountableError("only CPython can be counted: a just-in-time compiler makes counts random")
    found = importlib.util.find_spec("fastwsgi._speedups")
    if found is None or found.origin is None:
        raise UncountableError("the compiled twin isn't built: python setup.py build_ext --inplace")
    twin = Path(found.origin).read_bytes()
    cython = re.search(rb"_cython_(\d+(?:_\d+)*)", twin)
    compiler = re.search(rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+", twin)
    has_avx2 = False  # libc chooses its functions by them
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
    """The output of a command. If it fails, raises UncountableError with its error output."""
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
        """The directory of packages that rows need and that isn't on the process's own path; "" if there is none."""
        found = [importlib.util.find_spec(package) for name in self.names for package in JOBS[name].packages]
        return next((str(Path(spec.origin).parents[1]) for spec in found if spec and spec.origin), "")

    def count(self, root: Path, library: Path, folder: Path) -> dict[str, list[float] | str]:
        """For each row, the instructions of a call in each round, or the reason why it has no counts.

        root: the checkout to count; folder: for callgrind's files.
        """
        folder.mkdir()
        # No other variables, because a server copies them into each environ.
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
    """Read the row's name, which dump() wrote, and the number of instructions from one of callgrind's files."""
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    total = re.search(r"^(?:summary|totals): (\d+)$", text, re.MULTILINE)
    if name is None or total is None:
        raise UncountableError(f"callgrind has written {text[:500]!r}")
    return name[1], int(total[1])


@contextlib.contextmanager
def library() -> Iterator[Path]:
    """Compile callgrind.c into a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="instructions-") as name:
        compiled = Path(name) / "callgrind.so"
        run("cc", "-O1", "-shared", "-fPIC", "-o", compiled, ROOT / "bench" / "callgrind.c")
        yield compiled


def left_out(names: Iterable[str]) -> dict[str, str]:
    """The rows that can't be counted because a package isn't installed, with the reason."""
    needed = [(name, package) for name in names for package in JOBS[name].packages]
    return {name: f"{package} isn't installed" for name, package in needed if not importlib.util.find_spec(package)}


def measure(names: Iterable[str], root: Path = ROOT, tolerant: bool = False) -> Counts:
    """The instructions of each row. tolerant: leave out those that can't be counted, instead of raising."""
    run(sys.executable, "-m", "compileall", "-q", "fastwsgi", "bench", cwd=root)  # so that each run has the same files
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
    """Print the functions in which a row spends its instructions, without the functions that they call."""
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
    # callgrind assigns all instructions to functions that were running when counting began; leave those out.
    ordered = sorted(((count, function) for function, count in functions.items() if count < total), reverse=True)
    for count, function in ordered[:30]:
        print(f"{count / total:6.1%} {count / total * min(rounds):10,.0f}  {function}")


# ---- the reference -----------------------------------------------------------------------------------


def reference() -> str:
    """The commit to compare with: HEAD if the checkout has changes, otherwise the one before it."""
    return "HEAD" if run("git", "status", "--porcelain", "--", "fastwsgi", "setup.py").strip() else "HEAD^"


def baselines(commit: str) -> dict[str, Counts]:
    """The committed counts, by environment; empty for a commit without them."""
    path = BASELINE.relative_to(ROOT).as_posix()
    if not run("git", "ls-tree", "--name-only", commit, "--", path).strip():
        return {}
    return json.loads(run("git", "show", f"{commit}:{path}"))  # type: ignore[no-any-return]


def measure_commit(commit: str, names: Iterable[str]) -> Counts:
    """The instructions of each row with the package of a commit, without rows that it can't run."""
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        root = Path(folder) / "checkout"
        root.mkdir()
        run("git", "archive", "--format=tar", "-o", Path(folder) / "checkout.tar", commit)
        shutil.unpack_archive(Path(folder) / "checkout.tar", root)
        for counting in ("bench", "fastwsgi/bench"):  # today's benchmark counts the old package
            shutil.rmtree(root / counting, ignore_errors=True)
            shutil.copytree(ROOT / counting, root / counting, ignore=shutil.ignore_patterns("__pycache__"))
        built = {**os.environ, "FASTWSGI_REQUIRE_SPEEDUPS": "1", "FASTWSGI_PURE": ""}
        run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=root, env=built)
        return measure(names, root, tolerant=True)


def save(path: Path, key: str, counts: Counts, is_whole: bool) -> None:
    """Write an environment's counts. is_whole: whether they have all rows; if not, the other rows of JOBS stay."""
    known: dict[str, Counts] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = counts if is_whole else {**known.get(key, {}), **counts}
    known[key] = {name: rows[name] for name in JOBS if name in rows}
    path.write_text(json.dumps(dict(sorted(known.items())), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check(counts: Counts, key: str, known: Mapping[str, Counts], options: argparse.Namespace) -> list[Finding]:
    """Compare with the baseline or with a commit. Raises UncountableError if there is neither."""
    if key in known and not options.against:
        out = left_out(name for name in known[key] if name in JOBS)
        was = {name: count for name, count in known[key].items() if options.only in name and name not in out}
        return compare(was, counts, options.limit)
    if key not in known:
        print(f"{BASELINE.name} has no counts for this environment: counting an earlier commit instead.")
    commit = options.against or reference()
    was = measure_commit(commit, counts)
    if not was:
        raise UncountableError(f"nothing of {commit} can be compared with")
    print(f"Compared with {run('git', 'log', '-1', '--format=%h, %s', commit).strip()}")
    findings = compare(was, counts, options.limit, admitted_growth(baselines(commit), known))
    return [finding for finding in findings if finding.verdict != "new"]


# ---- the command -------------------------------------------------------------------------------------


def report(findings: Sequence[Finding]) -> int:
    """Print the findings; return the exit status."""
    print(f"{'instructions a call':<40}{'was':>12}{'now':>12}")
    for finding in findings:
        print(finding)
    failures = [finding for finding in findings if finding.verdict in ("grown", "new", "gone")]
    if failures:
        print("\nNot as it was:")
        for finding in failures:
            print(finding)
        print("If this is intended, run python -m bench.instructions --save, and commit the result with the change.")
    elif any(finding.verdict == "shrunk" for finding in findings):
        print("\nThere is less to do: hold on to it with python -m bench.instructions --save.")
    return 1 if failures else 0


def repeat(counts: Counts) -> int:
    """Count all rows a second time, and print the difference; return the exit status."""
    findings = compare(counts, measure(counts), REPEATABLE)
    for finding in findings:
        print(finding)
    most = max(abs(finding.ratio - 1) for finding in findings)
    print(f"\nTwo runs differ by {most:.2%} at most.")
    return 1 if any(finding.verdict for finding in findings) else 0


def main(arguments: Sequence[str] | None = None, baseline: Path = BASELINE) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="count only rows whose name contains this text")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"by what factor a row may grow ({LIMIT})")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit instead of the baseline")
    parser.add_argument("--save", action="store_true", help=f"write the counts to {BASELINE.name}")
    parser.add_argument("--repeat", action="store_true", help="count twice, and print the difference")
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
