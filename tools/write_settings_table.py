"""Writes the table of the models service's settings into docs/models.md: `python tools/write_settings_table.py`."""

import json
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from services.models.settings import ModelsSettings

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
_BEGIN = "<!-- settings: written by `make settings-table`, from services/models/settings.py; a test compares -->\n"
_END = "<!-- end of settings -->\n"


def page_with_table(page: str) -> str:
    """Return a page with the table of settings between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    rows = [_row(name, field) for name, field in ModelsSettings.model_fields.items()]
    table = "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])
    return f"{before}{_BEGIN}\n{table}\n\n{_END}{after}"


def _row(name: str, field: FieldInfo) -> str:
    variable = field.validation_alias or f"{ModelsSettings.model_config['env_prefix']}{name.upper()}"
    return f"| `{variable}` | {_default(field.default)} | {field.description} |"


def _default(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, Path):
        return f"`{value.name}` of the package"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
