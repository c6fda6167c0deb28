"""Writes docs/errors.md from the protos, or the pages of the API: `python -m tools.reference [DIRECTORY]`.

`--check` only compares docs/errors.md with the protos, and fails if it differs.
"""

import sys
from pathlib import Path

from tools.reference.api_pages import api_pages
from tools.reference.errors_page import errors_page

ERRORS_PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def write_api(directory: Path) -> None:
    """Write the pages of the API into a directory."""
    for path, text in api_pages().items():
        page = directory / path
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if ERRORS_PAGE.read_text(encoding="utf-8") != errors_page():
            sys.exit("docs/errors.md is not what error_reason.proto says: run `make reference`")
    elif sys.argv[1:]:
        write_api(Path(sys.argv[1]))
    else:
        ERRORS_PAGE.write_text(errors_page(), encoding="utf-8")
