"""Comments of protos as Markdown."""

import re

_CODE = re.compile(r"(`[^`]*`)")
_ESCAPED = re.compile(r"\*|(?<!\w)_|_(?!\w)")


def paragraphs(comment: str) -> list[str]:
    """Return the paragraphs of a comment, each on one line."""
    lines = [line.strip() for line in comment.strip().splitlines()]
    return [escaped(" ".join(part.split("\n"))) for part in re.split(r"\n\n+", "\n".join(lines)) if part]


def escaped(text: str) -> str:
    """Return a text in which nothing but its `code` means anything to Markdown."""
    parts = _CODE.split(text)
    return "".join(part if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\\\g<0>", text.replace("&", "&amp;").replace("<", "&lt;"))


def cell(texts: list[str]) -> str:
    """Return texts as one cell of a table."""
    return "<br>".join(text.replace("|", "\\|") for text in texts if text)
