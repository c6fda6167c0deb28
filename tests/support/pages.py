"""The programs that pages of the documentation show."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def recipe(page: str, heading: str, language: str) -> str:
    """Return the blocks of a language below a heading of the second level, joined in their order."""
    sections = re.split(r"^## ", (DOCS / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    [text] = [section for section in sections if section.startswith(f"{heading}\n")]
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def sdk_command(word: str) -> str:
    """Return the command of the SDK's page that has a word."""
    page = (DOCS.parent / "tools" / "sdk" / "README.md").read_text(encoding="utf-8")
    [command] = [found for found in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if word in found]
    return str(command)
