"""Settings of tools that are wrong, in plain words."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from services.orchestrator.setting_faults import setting_fault

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "places": {"type": "integer", "minimum": 0, "exclusiveMaximum": 9},
        "zone": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[A-Z]+$"},
        "mode": {"enum": ["fast", "exact"]},
        "days": {"type": "array", "items": {"type": ["integer", "null"]}, "maxItems": 2},
    },
    "required": ["places"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, ['needs "places"']),
        ({"places": -1}, ["has to be at least 0, and is -1"]),
        ({"places": 9}, ["has to be less than 9, and is 9"]),
        ({"places": "two"}, ['has to be a whole number, and is "two"']),
        ({"places": 1, "plaecs": 2}, ['has no setting "plaecs", did you mean "places"?']),
        ({"places": 1, "mode": "slow"}, ['has to be "fast" or "exact", and is "slow"']),
        ({"places": 1, "zone": "U"}, ["needs 2 characters or more, and has 1"]),
        ({"places": 1, "zone": "ABCDE"}, ["may have 4 characters, and has 5"]),
        ({"places": 1, "zone": "abc"}, ['has to match ^[A-Z]+$, and is "abc"']),
        ({"places": 1, "days": [1, None, 2]}, ["may have 2 entries, and has 3"]),
        ({"places": 1, "days": ["x" * 500]}, ['has to be a whole number or null, and is "' + "x" * 99 + "..."]),
        ([], ["has to be an object, and is []"]),
    ],
)
def test_a_setting_is_told_what_is_allowed(config: Any, told: list[str]) -> None:
    assert [setting_fault(error) for error in Draft202012Validator(SCHEMA).iter_errors(config)] == told
