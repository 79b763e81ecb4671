"""The documents are complete, and the names, hooks and settings in them exist."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import socketserver
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fastwsgi
from artefacts import source_files
from documents import DOCUMENTS, NAMES, ROOT, text_of, without_blocks
from fastwsgi import handlers, simple_server
from fastwsgi._http.settings import Settings
from fastwsgi._service import options
from fastwsgi.bench import cli as bench

DOCS = ROOT / "docs"

#: Flags of other programs that the documents name.
OTHERS_FLAGS = {
    "--http", "--init", "--kill-whom", "--max-requests", "--no-binary", "--noreload", "--now", "--time", "--timeout",
    "--verbose",
}  # fmt: skip


def script(name: str) -> ModuleType:
    """One of the scripts in docs/."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_flags_exist(path: Path) -> None:
    known = {options.flag(name) for name in options.OPTIONS} | {"--help", "--no-", "--print-config", "--version"}
    known |= {flag for action in bench.make_parser()._actions for flag in action.option_strings}
    for program in (ROOT / "bench").glob("*.py"):  # not imported: they are for Linux
        known |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', program.read_text(encoding="utf-8")))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text_of(path)))
    assert named <= known | OTHERS_FLAGS, "a flag that no program here has"


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_variables_exist(path: Path) -> None:
    known = {options.variable(name) for name in options.OPTIONS} | {"FASTWSGI_PURE", "FASTWSGI_REQUIRE_SPEEDUPS"}
    assert set(re.findall(r"FASTWSGI_[A-Z_]*[A-Z]", text_of(path))) <= known


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(path: Path) -> None:
    # A news fragment becomes a part of the changelog, which is in the top directory.
    directory = ROOT if path.parent.name == "changes" else path.parent
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", without_blocks(path)):
        if "://" in target:
            continue
        file = directory / target if target else path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """The headings of a document, in the form that links use."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_distribution_has_one_name() -> None:
    """All commands install our distribution, and not the unrelated project with the package's name."""
    metadata = text_of(ROOT / "pyproject.toml")
    (name,) = re.findall(r'^name = "(fastwsgi-.*)"$', metadata, re.MULTILINE)
    (extras,) = re.findall(r"^\[project.optional-dependencies\]\n(.*?)\n\n", metadata, re.MULTILINE | re.DOTALL)
    known = set(re.findall(r"^(\w+) =", extras, re.MULTILINE))
    installed = [each for path in DOCUMENTS for each in re.findall(r"pip install '?(fastwsgi[^`'\s]*)", text_of(path))]
    assert installed
    for requirement in installed:
        distribution, _, extra = requirement.rstrip("]").partition("[")
        assert distribution == name
        assert extra == "" or extra in known
    for path in (ROOT / "README.md", DOCS / "index.md"):
        assert re.search(r"unrelated\s+project", text_of(path))


# ---- files ----------------------------------------------------------------------------------------------


@pytest.mark.source
def test_the_list_of_files_is_current() -> None:
    assert text_of(DOCS / "files.md") == script("file_list").page(), "run python -m docs.file_list"


@pytest.mark.source
def test_the_picture_of_the_states_is_current() -> None:
    assert text_of(DOCS / "states.svg") == script("states_diagram").picture(), "run python -m docs.states_diagram"


@pytest.mark.source
def test_the_list_of_files_has_each_source_file() -> None:
    listed = {path.relative_to(ROOT).as_posix() for path in script("file_list").source_files()}
    folders = ("fastwsgi/", "tests/", "bench/", "examples/", "docs/")
    suffixes = (".py", ".pyi", ".pyx", ".pxi", ".c")
    assert listed == {name for name in source_files() if name.startswith(folders) and name.endswith(suffixes)}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", '"""Do ``this``.\n\nMore.\n"""\n', "Do `this`."),
        ("a.pyi", '"""One sentence. Another that is\nbroken.\n"""\n', "One sentence."),
        ("a.py", "#!/usr/bin/env python3\n'''\nBegun in the next line.\n'''\n", "Begun in the next line."),
        ("a.pyx", '# cython: binding=True\n# More.\n"""Inner loops: a|b."""\n', r"Inner loops: a\|b."),
        ("a.pxi", "# Octets. Included.\n\ncdef int a\n", "Octets. Included."),
        ("a.c", "/* A floor. */\n", "A floor."),
        ("a.c", "/* A floor.\n\n   cc -O2 */\n", "A floor."),
        *((f"a{suffix}", text, None) for suffix in (".py", ".pyx", ".c") for text in ("a = 1\n", '"""Nothing"""\n')),
        ("a.pxi", "# cython: binding=True.\n", None),
    ],
)
def test_the_sentence_that_a_file_begins_with(name: str, text: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    if expected is None:
        with pytest.raises(ValueError, match="must be a sentence"):
            script("file_list").summary(tmp_path / name)
    else:
        assert script("file_list").summary(tmp_path / name) == expected


# ---- settings -------------------------------------------------------------------------------------------


def test_the_reference_of_settings_is_current() -> None:
    reference = script("settings_reference")
    assert text_of(DOCS / "settings.md") == reference.page(), "run python -m docs.settings_reference"


def test_the_reference_has_each_setting_once() -> None:
    page = text_of(DOCS / "settings.md")
    for name, option in options.OPTIONS.items():
        heading, facts, meaning = re.findall(rf"^### `({name})`\n\n(.*)\n\n(.*)\n", page, re.MULTILINE)[0]
        assert page.count(f"### `{heading}`\n") == 1
        assert facts.startswith(f"`{options.flag(name)}` · `{options.variable(name)}` · ")
        default = options.default_text(option)
        assert (f"default `{default}`" in facts) if default else facts.endswith("no default")
        assert meaning == option.metadata["meaning"]


def test_what_the_reference_says_of_scripts() -> None:
    """Scripts have the limits, the timeouts, fast_lane and poller, and no other options."""
    of_scripts = {
        name for name, option in options.OPTIONS.items() if option.metadata["group"] in ("limits", "timeouts")
    }
    assert set(Settings.__dataclass_fields__) == of_scripts | {"fast_lane", "poller"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("max_body", "0 bytes to 1\N{NO-BREAK SPACE}PiB"),
        ("max_request_line", "8\N{NO-BREAK SPACE}bytes to 1\N{NO-BREAK SPACE}MiB"),
        ("backlog", "a number, 1 to 65\N{NO-BREAK SPACE}535"),
        ("head_timeout", "0.001 to 604\N{NO-BREAK SPACE}800 seconds"),
        ("poller", "`best` or `selectors`"),
        ("reload", "yes or no"),
        ("certfile", "a file"),
    ],
)
def test_how_the_reference_shows_values(name: str, expected: str) -> None:
    shown = script("settings_reference").values(options.OPTIONS[name])
    assert shown.replace("0\N{NO-BREAK SPACE}bytes", "0 bytes") == expected


# ---- hooks ----------------------------------------------------------------------------------------------


def hooks() -> Iterator[Any]:
    """The names in the table of hooks: their class, and the path that serves an override."""
    rows = re.findall(r"^\| (handler|server|`ServerHandler`).*?: (.*?) \| (\S+?)(?:;.*)? \|$",
                      text_of(DOCS / "swap.md"), re.MULTILINE)  # fmt: skip
    for owner, cell, path in rows:
        for name in re.findall(r"`(\w+)`", cell.split("; so also")[0].split("; or a")[0]):
            yield pytest.param(owner.strip("`"), name, path, id=f"{owner.strip('`')}.{name}")


@pytest.mark.parametrize(("owner", "name", "path"), list(hooks()))
def test_the_table_of_hooks(owner: str, name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(simple_server.WSGIRequestHandler):
        pass

    class Server(simple_server.WSGIServer):
        pass

    if owner == "ServerHandler":
        monkeypatch.setattr(handlers.BaseHandler, name, None)
    else:
        cls: type = Handler if owner == "handler" else Server
        before = getattr(cls, name)
        setattr(cls, name, functools.partialmethod(before) if callable(before) else "changed")
    with Server(("127.0.0.1", 0), Handler) as server:
        explanation = simple_server.explain(server)
    assert explanation.path == path
    assert path == "event-driven" or f".{name} is overridden" in str(explanation)


def test_the_table_of_hooks_is_complete() -> None:
    listed = {param.values[:2] for param in hooks()}
    classic = {("server", name) for name in simple_server.SERVER_HOOKS if not name.startswith("_")} | {
        ("handler", name) for name in simple_server.HANDLER_HOOKS
    }
    assert classic <= listed
    assert {("server", "verify_request"), ("handler", "log_message"), ("ServerHandler", "error_body")} <= listed


@pytest.mark.parametrize("what", ["ThreadingMixIn", "ForkingMixIn", "another handler", "ServerHandler", "a socket"])
def test_the_other_reasons_for_the_classic_path(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bases: list[type] = [simple_server.WSGIServer]
    handler: type = simple_server.WSGIRequestHandler
    if what.endswith("MixIn"):
        if not hasattr(socketserver, what):
            pytest.skip("no fork here")
        bases.insert(0, getattr(socketserver, what))
    elif what == "another handler":
        handler = socketserver.StreamRequestHandler
    elif what == "ServerHandler":
        monkeypatch.setattr(simple_server, what, type(what, (simple_server.ServerHandler,), {}))
    with type("Server", tuple(bases), {})(("127.0.0.1", 0), handler) as server:
        if what == "a socket":
            with server.socket:
                server.socket = type("Socket", (), {"close": lambda self: None})()
        assert simple_server.explain(server).path == "classic"


# ---- the site -------------------------------------------------------------------------------------------


def test_the_site_has_each_page() -> None:
    navigation = text_of(ROOT / "mkdocs.yml").partition("nav:")[2]
    in_navigation = sorted(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE))
    pages = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if path.parent.name != "changes")
    assert in_navigation == pages


def test_the_reference_has_each_module() -> None:
    package = Path(str(fastwsgi.__file__)).parent
    modules = {path.stem for path in package.glob("*.py") if not path.stem.startswith("_")}
    assert {path.stem for path in (DOCS / "api").glob("*.md")} == modules | {"fastwsgi"}
    for path in (DOCS / "api").glob("*.md"):
        name = "fastwsgi" if path.stem == "fastwsgi" else f"fastwsgi.{path.stem}"
        assert text_of(path).startswith(f"# {name}\n\n::: {name}\n")


PUBLIC = ["headers", "handlers", "simple_server", "types", "util", "validate"]


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_says_what_it_does(name: str) -> None:
    module = importlib.import_module(f"fastwsgi.{name}")
    for public in module.__all__:
        found = getattr(module, public)
        is_class = issubclass(type(found), type)  # an alias isn't a class, even if isinstance() says so
        if not inspect.isroutine(found) and not is_class:
            continue
        assert found.__doc__, public
        for method, value in vars(found).items() if is_class else ():
            if not method.startswith("_") and inspect.isroutine(value):
                assert value.__doc__, f"{public}.{method}"


def test_what_the_package_has_says_what_it_does() -> None:
    for name in ("install", "uninstall", "serve"):
        assert getattr(fastwsgi, name).__doc__


@pytest.mark.parametrize(
    ("file", "text", "foreign"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>', True),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/x.css">', True),
        ("a.html", '<img src="http://pictures.example/x.png">', True),
        ("a.html", '<a href="https://example.org/">elsewhere</a> <script src="x.js"></script>', False),
        ("a/b.html", '<link rel="canonical" href="https://docs.example/">', False),
        ("a.css", "a { background: url(https://pictures.example/x.png) }", True),
        ("a.css", "a { background: url('x.png') }", False),
    ],
)
def test_a_site_that_loads_from_other_hosts_is_found(file: str, text: str, foreign: bool, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", exc_type=ImportError)
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    assert bool(script("site_pages").foreign_loads(tmp_path)) is foreign


def test_pages_include_what_stands_elsewhere() -> None:
    """The pages of the changelog, the numbers and the benchmarks' method include other files."""
    pytest.importorskip("mkdocs", exc_type=ImportError)
    site_pages = script("site_pages")
    page = site_pages.on_page_markdown(text_of(DOCS / "performance.md"), page=None)
    assert "../" not in re.sub(r"`[^`]*`", "", page), "a link out of the site, or nothing was put in its place"
    numbers = text_of(ROOT / "README.md").partition("\n## Speed\n")[2].partition("\n## ")[0].splitlines()
    assert len(numbers) > 10
    for line in numbers:
        assert line in page or "](" in line
    for heading in re.findall(r"^## .*$", text_of(ROOT / "bench" / "README.md"), re.MULTILINE):
        assert f"\n#{heading}\n" in page


# ---- the changelog --------------------------------------------------------------------------------------

FRAGMENT = re.compile(r"(?:\+[a-z0-9]+(?:-[a-z0-9]+)*|[1-9][0-9]*)\.([a-z]+)\.md")


def test_news_fragments() -> None:
    """Each has one paragraph with at least one sentence, and a kind that towncrier knows."""
    kinds = set(re.findall(r'\{ directory = "(\w+)"', text_of(ROOT / "pyproject.toml")))
    assert kinds == {"security", "removed", "changed", "added", "fixed"}
    for path in (DOCS / "changes").iterdir():
        if path.name == ".gitignore":
            continue
        match = FRAGMENT.fullmatch(path.name)
        assert match is not None, f"{path.name} is neither +WHAT.KIND.md nor NUMBER.KIND.md"
        assert match[1] in kinds, path.name
        text = text_of(path)
        assert re.fullmatch(r"[^-#*\s](?:.|\n(?!\n))*\.\n", text), f"{path.name}: a paragraph that ends in a full stop"
        assert all(len(line) <= 120 for line in text.splitlines()), path.name


def test_the_changelog_has_a_place_for_news() -> None:
    assert text_of(ROOT / "CHANGELOG.md").count("<!-- towncrier release notes start -->\n") == 1
