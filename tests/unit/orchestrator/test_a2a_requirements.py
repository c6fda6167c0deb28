"""docs/a2a.md names tests that exist for what the protocol requires."""

import re

from tests.support.own_environment import ROOT

TESTS = ROOT / "tests" / "integration" / "orchestrator"


def test_each_requirement_of_the_protocol_has_a_test() -> None:
    page = (ROOT / "docs" / "a2a.md").read_text()
    _, _, table = page.partition("## Requirements of the protocol")
    rows = [row.split("|") for row in table.splitlines() if row.startswith("| ") and row[2].isdigit()]
    assert rows
    defined = set(re.findall(r"def (test_\w+)", "".join(file.read_text() for file in TESTS.glob("test_a2a*.py"))))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row[3])
        assert named, row
        assert set(named) <= defined, row
