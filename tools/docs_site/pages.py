"""The pages of the site, as they are in the repository, with links that a site can follow."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from tools.reference.api_pages import INDEX, api_pages, page_of

API = "docs/api"
_ROOTS = ("docs", "services", "clients", "deploy", "examples", "tests", "tools")
_NOT_OURS = {"node_modules", "dist", "build"}
_FENCE = re.compile(r"(^ *```.*?^ *``` *$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def site_pages(root: Path) -> dict[str, str]:
    """Return the text of every page by its path: those of the repository, and the reference of the API."""
    texts = {path: (root / path).read_text(encoding="utf-8") for path in _paths(root)}
    reference = {f"{API}/{path}": text for path, text in api_pages().items()}
    known = {*texts, *reference}
    return {path: _relinked(path, text, known) for path, text in texts.items()} | reference


def navigation(config: str) -> str:
    """Return the configuration of mkdocs with the pages of the API in its navigation."""
    lines = ["  - API:", f"      - {API}/{INDEX}"]
    package = ""
    for path in sorted(api_pages().keys() - {INDEX}):
        folder, noun = path.removesuffix(".md").split("/")
        if folder != package:
            package = folder
            lines.append(f"      - {folder}:")
        lines.append(f"          - {noun.replace('_', ' ')}: {API}/{path}")
    return config + "\n".join(lines) + "\n"


def _paths(root: Path) -> Iterator[str]:
    yield from (path.name for path in sorted(root.glob("*.md")))
    for folder in _ROOTS:
        for path in sorted((root / folder).rglob("*.md")):
            if not _NOT_OURS.intersection(path.relative_to(root).parts):
                yield path.relative_to(root).as_posix()


def _relinked(page: str, text: str, known: set[str]) -> str:
    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        file = target.partition("#")[0]
        if not file or re.match(r"[a-z]+:", file):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), file))
        if path in known or path.endswith(".svg"):
            return match[0]
        if path.startswith("protos/coxswain"):
            proto = path.removeprefix("protos/")
            described = f"{API}/{page_of(proto)}" if proto.endswith(".proto") else f"{API}/{INDEX}"
            return f"[{words}]({posixpath.relpath(described, posixpath.dirname(page))})"
        # A file or a directory that is no page: the site says where it is.
        return f"`{path}`" if path in words else f"{words} (`{path}`)"

    parts = _FENCE.split(text)
    return "".join(_block(part) if number % 2 else _prose(_LINK.sub(link, part)) for number, part in enumerate(parts))


def _block(fence: str) -> str:
    """Return a block of code whose file, if it names one, is its title, where mkdocs sees it in its list."""
    titled = re.sub(r"^( *```\w+) file=(\S+)$", r'\1 title="\2"', fence, count=1, flags=re.MULTILINE)
    indent = len(titled) - len(titled.lstrip(" "))
    return titled if indent in {0, 4} else re.sub(r"^(?=.)", " " * (4 - indent), titled, flags=re.MULTILINE)


def _prose(text: str) -> str:
    """Return a text with what belongs to items of lists indented as mkdocs asks for: by four blanks."""
    return re.sub(r"^ {2,3}(?=\S)", "    ", text, flags=re.MULTILINE)
