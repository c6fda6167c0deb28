"""Collects what the site is built from: `python -m tools.docs_site build` writes build/pages and build/mkdocs.yml."""

import shutil
import sys
from pathlib import Path

from tools.docs_site.pages import navigation, site_pages

ROOT = Path(__file__).parents[2]


def write(directory: Path) -> None:
    """Write the pages, their pictures and style, and the configuration of mkdocs."""
    pages = directory / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    for path, text in site_pages(ROOT).items():
        page = pages / path
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    for picture in (ROOT / "docs").glob("*.svg"):
        shutil.copy(picture, pages / "docs")
    shutil.copy(Path(__file__).with_name("site.css"), pages)
    config = Path(__file__).with_name("mkdocs.yml").read_text(encoding="utf-8")
    (directory / "mkdocs.yml").write_text(navigation(config), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
