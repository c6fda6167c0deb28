"""Reads pages and PDF files into text; runs in helper processes alone, as they come from anybody."""

import io
import re
from typing import Any
from urllib.parse import urljoin, urlsplit

_LEFT_OUT = (
    *("script", "style", "noscript", "template", "svg", "canvas", "iframe", "object", "embed"),
    *("form", "button", "input", "select", "textarea", "nav", "footer", "aside", "dialog"),
)
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+\n?")
_LINK_CHARACTERS = 2000
_MOST_DEPTH = 200
"""Levels of elements: each goes through the whole text in it again, and uses the stack of the interpreter."""


def read_page(content: bytes, charset: str, url: str) -> dict[str, Any]:
    """Return title, text as Markdown and links of an HTML page.

    Raises:
        ValueError: it is no page, or is nested too deep.
    """
    from bs4 import BeautifulSoup
    from markdownify import ATX, MarkdownConverter

    page = BeautifulSoup(content, "lxml", from_encoding=charset or None)
    _check_depth(page)
    title = page.title.get_text(" ", strip=True) if page.title else ""
    for element in page.find_all(_LEFT_OUT):
        element.decompose()
    for element in page.find_all(True):
        if element.decomposed:
            continue
        hidden = element.get("hidden") is not None or element.get("aria-hidden") == "true"
        if hidden or _HIDDEN_STYLE.search(str(element.get("style") or "")):
            element.decompose()
    links = []
    for anchor in page.find_all("a"):
        target = _target(url, str(anchor.get("href") or ""))
        if target:
            anchor["href"] = target
            links.append({"text": anchor.get_text(" ", strip=True)[:200], "url": target})
        else:
            anchor.unwrap()
    for image in page.find_all("img"):
        image.replace_with(str(image.get("alt") or ""))
    body = page.find("main") or page.select_one("[role=main]") or _only_article(page) or page.body or page
    text = MarkdownConverter(heading_style=ATX, bullets="-", escape_misc=False).convert_soup(body)
    return {"title": title[:500], "text": tidied(text), "links": _different(links)}


def pdf_pages(content: bytes, max_characters: int, max_pages: int) -> tuple[str, list[str]]:
    """Return title and the texts of the pages of a PDF file, up to the page with which it has more than it may.

    Raises:
        ValueError: it cannot be read, or not without its password.
    """
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        document = PdfReader(io.BytesIO(content))
        if document.is_encrypted and not document.decrypt(""):
            raise ValueError("the PDF file cannot be read without its password")
        pages: list[str] = []
        size = 0
        for page in document.pages:
            text = page.extract_text() or ""
            pages.append(text)
            size += len(text)
            if size > max_characters or len(pages) == max_pages:
                break
        title = str(document.metadata.get("/Title") or "") if document.metadata else ""
    except (PyPdfError, KeyError, TypeError, AttributeError, IndexError, AssertionError, OSError) as error:
        raise ValueError("the PDF file is damaged, or of a form that cannot be read; save it as PDF anew") from error
    return title[:500], pages


def _check_depth(page: Any) -> None:
    level = [page]
    for _ in range(_MOST_DEPTH + 1):
        level = [child for element in level for child in element.find_all(True, recursive=False)]
        if not level:
            return
    raise ValueError(f"the page has elements in more than {_MOST_DEPTH} levels")


def _only_article(page: Any) -> Any:
    articles = page.find_all("article", limit=2)
    return articles[0] if len(articles) == 1 else None


def _target(url: str, href: str) -> str:
    """Return the absolute address of a link, empty when it leads to no page."""
    if not href or href.startswith("#") or len(href) > _LINK_CHARACTERS:
        return ""
    try:
        target = urljoin(url, href.strip())
        return target if urlsplit(target).scheme in ("http", "https") else ""
    except ValueError:
        return ""


def _different(links: list[dict[str, str]]) -> list[dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for link in links:
        if link["text"]:
            found.setdefault(link["url"], link)
    return list(found.values())[:200]


def tidied(text: str) -> str:
    """Return a text without spaces at the ends of lines and without blank lines in a row."""
    lines = (line.rstrip() for line in text.splitlines())
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()
