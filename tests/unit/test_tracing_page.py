"""The page of traces says what the code records."""

import ast
import re
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")

_MAKERS = {"span", "apart", "begin"}
_ATTRIBUTE = re.compile(r"(?:coxswain|error|gen_ai|http|rpc|server)(?:\.[a-z_]+)+")
_MADE_UP = {"chat", "embeddings", "execute_tool"}
"""What the names of spans begin with that are not literals."""


@cache
def trees() -> list[ast.Module]:
    """The files of the services that import spans."""
    texts = (file.read_text(encoding="utf-8") for file in sorted((ROOT / "services").rglob("*.py")))
    return [ast.parse(text) for text in texts if "common.tracing." in text or "\nclass SpanKind" in text]


def attributes() -> set[str]:
    """Return the attributes that are set: keys of literal dictionaries, and first arguments of `note`."""
    texts = {
        node.value
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text for text in texts if _ATTRIBUTE.fullmatch(text)}


def names() -> set[str]:
    """Return the names of spans, as far as they are literals."""
    calls = (
        node
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MAKERS and node.args
    )
    return {str(call.args[0].value) for call in calls if isinstance(call.args[0], ast.Constant)}


def rows(heading: str) -> set[str]:
    """Return what the first cells of the table below a heading name literally."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_span_is_on_the_page_and_nothing_else_is() -> None:
    assert rows("Spans") == names() | _MADE_UP


def test_every_attribute_is_on_the_page_and_nothing_else_is() -> None:
    assert rows("Attributes") == attributes()


def test_the_picture_shows_spans_that_there_are() -> None:
    picture = ET.parse(ROOT / "docs" / "trace.svg")
    texts = [element.text or "" for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"queue execution", "run execution", "run task", "call model", "call tool"} < set(texts)
    assert set(texts) & rows("Spans") == names()
