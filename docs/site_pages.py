"""A hook of mkdocs.yml: include text and files from outside of docs/ in the site, and check the finished site.

If a paragraph is only a link to a Markdown file outside of docs/, or to a section of one, it is replaced by that text,
so that no text is written twice. Links to files in some other directories lead to copies of the files in the site.
"""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]

#: The directories whose files the site has copies of, under the same paths.
COPIED = ("examples/deploy", "bench/results")
# The pages of the site that include the text of other files outside of docs/.
_PLACES = {"CHANGELOG.md": "changelog.md", "README.md": "index.md", "bench/README.md": "performance.md"}

_HEADING_OR_INCLUSION = re.compile(
    r"^(?:(?P<level>#+) .*|\[[^\]\n]*\]\(\.\./(?P<name>[\w./-]+\.md)(?:#(?P<section>[\w-]+))?\))$", re.MULTILINE
)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)((?:#[^)\s]*)?)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the copied files to the site."""
    for path in [path for folder in COPIED for path in sorted((ROOT / folder).glob("*"))]:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace inclusions, and change links out of docs/ to pages of the site."""
    level = 1

    def replace(match: re.Match[str]) -> str:
        nonlocal level
        if match["level"]:
            level = len(match["level"])
            return match[0]
        return _included(match["name"], match["section"], level)

    markdown = _HEADING_OR_INCLUSION.sub(replace, markdown)
    for folder in COPIED:
        markdown = markdown.replace(f"](../{folder}/", f"]({folder}/")
    return markdown


def _included(name: str, section: str | None, level: int) -> str:
    """A file, or a section of it, without its heading, and with links that work in a page in docs/.

    level: the level of the heading that it is placed under.
    """
    text = (ROOT / name).read_text(encoding="utf-8")
    if name == "CHANGELOG.md":
        text = text.replace("<!-- towncrier release notes start -->", _unreleased())
    if section is None:
        text = re.sub(r"\A# .*\n", "", text)
    else:
        sections = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
        text = dict(zip(sections[1::2], sections[2::2], strict=True))[section.capitalize()]
    text = re.sub("^##", "#" * (level + 1), text, flags=re.MULTILINE)
    return _LINK.sub(lambda match: _from_docs(name, *match.groups()), text)


def _from_docs(name: str, shown: str, target: str, anchor: str) -> str:
    """Convert a link in a file of the repository for a page in docs/. A link to a directory becomes plain text."""
    if not urlsplit(target).scheme:
        path = (ROOT / name).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
        if path in COPIED:
            return shown
        target = _PLACES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}")
    return f"[{shown}]({target}{anchor})"


def _unreleased() -> str:
    """The changelog of the next release, made from the news fragments."""
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "unreleased"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise PluginError(f"towncrier: {finished.stderr}")
    return re.sub(r"\A## .*", "## Not released yet", finished.stdout)


class _Loads(HTMLParser):
    """Finds the URLs that a page loads, and not those that it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            leads = tag == "a" or (tag, dict(attrs).get("rel")) == ("link", "canonical")
            if name in ("src", "href", "srcset", "data", "poster") and not leads and urlsplit(value or "").netloc:
                self.foreign.append(f"<{tag} {name}={value}>")


def foreign_loads(site: Path) -> list[str]:
    """The URLs on other hosts that the pages and style sheets of a built site load."""
    found = []
    for path in sorted(site.rglob("*")):
        if path.suffix == ".html":
            parser = _Loads()
            parser.feed(path.read_text(encoding="utf-8"))
            found += [f"{path.relative_to(site)}: {each}" for each in parser.foreign]
        elif path.suffix == ".css":
            urls = re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]*)|@import\s+['\"]", path.read_text("utf-8"))
            found += [f"{path.relative_to(site)}: {each}" for each in urls]
    return found


def on_post_build(config: Any) -> None:
    """Reject a site that loads anything from another host."""
    found = foreign_loads(Path(config["site_dir"]))
    if found:
        raise PluginError("the site loads from other hosts:\n" + "\n".join(found))
