"""The promises of SECURITY.md are kept by tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def names_in(file: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_promise_names_tests_that_exist() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    table = page.partition("| promise | kept by |")[2].partition("\n\n")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ") and not row.startswith("|---")]
    assert len(rows) > 15
    for row in rows:
        named = _NAMED.findall(row)
        assert named, f"no test keeps: {row}"
        for file, test in named:
            assert (ROOT / file).is_file(), f"{file} does not exist"
            assert test in names_in(ROOT / file), f"{file} has no {test}"
