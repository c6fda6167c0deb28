"""Reads pages and PDF files of the web, and robots.txt; runs in the helper process alone, as they come from anybody."""

from typing import Any

from services.common.reading import pages

MAX_CHARACTERS = 5_000_000
"""Of the text of one page; more is cut off."""
_MAX_PDF_PAGES = 2000


def read_page(content: bytes, charset: str, url: str) -> dict[str, Any]:
    """Return title, text as Markdown and links of an HTML page.

    Raises:
        ValueError: it is no page.
    """
    found = pages.read_page(content, charset, url)
    return {**found, "text": found["text"][:MAX_CHARACTERS]}


def read_pdf(content: bytes) -> dict[str, Any]:
    """Return title and text of a PDF file.

    Raises:
        ValueError: it cannot be read, or not without its password.
    """
    title, texts = pages.pdf_pages(content, MAX_CHARACTERS, _MAX_PDF_PAGES)
    parts = [f"[page {number}]\n\n{text.strip()}" for number, text in enumerate(texts, 1)]
    return {"title": title, "text": pages.tidied("\n\n".join(parts)[:MAX_CHARACTERS]), "links": []}


def allows_robots(robots: str, url: str, agent: str) -> dict[str, Any]:
    """Return whether a robots.txt lets an agent read an address."""
    from protego import Protego

    return {"allowed": Protego.parse(robots).can_fetch(url, agent)}
