"""The site of the documentation has every page, and links that a site can follow."""

import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.links import broken_links
from tools.docs_site.pages import navigation, site_pages

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "tools" / "docs_site" / "mkdocs.yml").read_text(encoding="utf-8")


@cache
def pages() -> dict[str, str]:
    return site_pages(ROOT)


def test_every_link_of_the_site_leads_to_a_page_of_it() -> None:
    pictures = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.svg")}
    assert broken_links(pages(), pictures.__contains__) == []


def test_every_page_of_docs_is_in_the_navigation_and_is_there() -> None:
    listed = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", navigation(CONFIG), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert "navigation.indexes" not in re.sub(r"#.*", "", CONFIG), "or pages called README.md are not shown"
    assert set(listed) <= pages().keys()
    apart = {path for path in pages() if path.startswith("docs/decisions/")} | {"docs/README.md"}
    assert {path for path in pages() if path.startswith(("docs/", "examples/"))} - apart <= set(listed)


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("docs/api-style.md", "[error_reason.proto](api/common/error_reason.md)"),
        ("docs/clients.md", "[Its page](../clients/python/README.md)"),
        ("README.md", "[`protos/`](docs/api/README.md)"),
        ("docs/models.md", "providers.yaml (`services/models/providers/litellm/providers.yaml`)"),
        ("docs/from-crewai.md", '```yaml title="src/letters/config/agents.yaml"'),
    ],
)
def test_links_to_what_is_no_page_say_where_it_is(page: str, link: str) -> None:
    assert link in pages()[page]


def test_the_site_loads_nothing_from_elsewhere() -> None:
    assert "font: false" in CONFIG
    assert "plugins: [search]\n" in CONFIG
    assert "http" not in re.sub(r"#.*", "", CONFIG)
