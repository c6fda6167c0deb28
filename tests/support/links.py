"""Links between pages of Markdown."""

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def broken_links(pages: Mapping[str, str], exists: Callable[[str], bool]) -> list[str]:
    """Return what links of the pages lead nowhere: to no file, or to no heading of one of the pages.

    Pages are named by their paths from the root; `exists` says whether another path leads to a file or a directory.
    """
    anchors = {path: set(_anchors(text)) for path, text in pages.items()}
    broken = []
    for path, text in pages.items():
        for target in _targets(text):
            file, _, anchor = target.partition("#")
            to = posixpath.normpath(posixpath.join(posixpath.dirname(path), file)) if file else path
            if to not in pages and not exists(to):
                broken.append(f"{path}: {target}")
            elif anchor and anchor not in anchors.get(to, set()):
                broken.append(f"{path}: {target} (no such heading)")
    return broken


def _targets(text: str) -> Iterator[str]:
    for target in _LINK.findall(re.sub(r"`[^`\n]*`", "", _prose(text))):
        if not re.match(r"[a-z]+:", target):
            yield target


def _anchors(text: str) -> Iterator[str]:
    """Yield the anchors of a page's headings, as GitHub makes them: a repeated one gets a number."""
    seen: Counter[str] = Counter()
    for heading in _HEADING.findall(_prose(text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        yield f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor
        seen[anchor] += 1


def _prose(text: str) -> str:
    return _COMMENT.sub("", _FENCE.sub("", text))
