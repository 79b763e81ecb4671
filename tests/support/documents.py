"""Read the documents: their list, their code blocks, and the options that their commands set."""

from __future__ import annotations

import ast
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastwsgi._service import options
from fastwsgi._service.access_log import AccessLog
from fastwsgi._service.bind import parse_bind
from fastwsgi._service.cli import main
from fastwsgi._service.proxies import Proxies

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "bench" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]

_FENCED = re.compile(r"^( *)(```+|~~~+)[ ]*([^\n]*)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: the name of its document, its number in it, its language and its code."""

    document: str
    number: int
    language: str
    code: str

    @property
    def id(self) -> str:
        return f"{self.document}-{self.number}"


class Command(NamedTuple):
    """A line of a shell block, without its comment."""

    block: Block
    words: tuple[str, ...]

    @property
    def line(self) -> str:
        return shlex.join(self.words)

    @property
    def id(self) -> str:
        return f"{self.block.id}-{self.line}"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_blocks(path: Path) -> str:
    """A document's text outside of its fenced blocks."""
    return _FENCED.sub("", text_of(path))


def blocks(*languages: str) -> list[Block]:
    """All blocks of all documents, or those in some languages."""
    found = []
    for path, name in zip(DOCUMENTS, NAMES, strict=True):
        for number, match in enumerate(_FENCED.finditer(text_of(path)), 1):
            _, _, language, code = match.groups()
            if language in languages or not languages:
                found.append(Block(name, number, language, code))
    return found


def commands() -> Iterator[Command]:
    """Each command of each shell block."""
    for block in blocks("sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = tuple(shlex.split(line, comments=True))
            if words:
                yield Command(block, words)


def accepted(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Parse arguments with our command line; refused arguments end the test."""
    capsys.readouterr()
    assert main([*arguments, "--print-config"]) == 0
    values = {}
    for line in capsys.readouterr().out.splitlines():
        name, _, value = line.partition("  #")[0].partition(" = ")
        values[name] = ast.literal_eval(value)
    assert values.keys() == options.OPTIONS.keys()
    # Check the values that are otherwise checked only when they are used.
    for text in values["bind"]:
        parse_bind(text)
    Proxies(values["forwarded_allow_ips"], values["forwarded_fields"])
    AccessLog(values["access_log_format"], io.StringIO())
    return values
