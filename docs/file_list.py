"""Write docs/files.md, the list of all source files, from the first line of each file's docstring.

Run ``python -m docs.file_list`` in the top directory. With ``--check`` it only checks whether the list is current. It
reads the files as text, and imports nothing from the package.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("files.md")
FOLDERS = ("fastwsgi", "tests", "bench", "examples", "docs")
SUFFIXES = {".py", ".pyi", ".pyx", ".pxi", ".c"}

HEAD = """\
<!-- Made by "python -m docs.file_list" from the first line of each file's docstring or comment. -->
# Files

Each source file and its one job, in the file's own words. `CONTRIBUTING.md` says what the folders are for.
"""


def source_files(root: Path = ROOT) -> Iterator[Path]:
    """The files for the list; the files of a folder come before those of its subfolders."""
    for folder in FOLDERS:
        found = (path for path in (root / folder).rglob("*") if path.suffix in SUFFIXES)
        # Cython's output has the name of its source, and isn't in the repository.
        kept = (path for path in found if path.suffix != ".c" or not path.with_suffix(".pyx").exists())
        yield from sorted(kept, key=lambda path: (path.parent.as_posix(), path.name))


def summary(path: Path) -> str:
    """The first sentence of a file: of its docstring, or in other kinds of files, of its first comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".py", ".pyi"):
        said = ast.get_docstring(ast.parse(text)) or ""
    elif path.suffix == ".c":
        found = re.match(r"/\* (.*?)(?: \*/)?\n", text)
        said = found[1] if found else ""
    else:
        found = re.match(r'(?:#.*\n)*"""(.*?)(?:"""|\n)|# (?!cython:)(.*)', text)
        said = (found[1] or found[2]) if found else ""
    line = said.partition("\n")[0].strip()
    if not line.endswith("."):  # the sentence, or a second one, continues in the next line
        line = "".join(line.rpartition(". ")[:2]).strip()
    if not line:
        raise ValueError(f"{path}: the first line of its docstring or comment must be a sentence")
    return line.replace("``", "`").replace("|", "\\|")


def page(root: Path = ROOT) -> str:
    """The expected text of the page."""
    parts = [HEAD]
    folder = None
    for path in source_files(root):
        name = path.relative_to(root)
        if name.parent != folder:
            folder = name.parent
            parts.append(f"\n## {folder.as_posix()}\n\n| file | its one job |\n|---|---|\n")
        parts.append(f"| `{name.name}` | {summary(path)} |\n")
    return "".join(parts)


if __name__ == "__main__":
    from docs.generated_file import main

    sys.exit(main(__doc__, PAGE, page(), "file_list"))
