"""The command line of the scripts that write one file of docs/: write it, or check that it is current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(about: str | None, path: Path, text: str, module: str) -> int:
    """Write the text to the file; with --check, only compare them. Return the exit status.

    about: the description for --help; module: the script's name, for the message.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file isn't current")
    if not parser.parse_args().check:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        print(f"docs/{path.name} isn't current: run python -m docs.{module}", file=sys.stderr)
        return 1
    return 0
