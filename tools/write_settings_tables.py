"""Writes the tables of settings into docs/settings.md and docs/models.md: `python -m tools.write_settings_tables`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from services.auth.limit_settings import LimitSettings
from services.auth.settings import AuthSettings
from services.common.environment import variables_of_field
from services.common.settings import CommonSettings, ServiceSettings
from services.memory.settings import MemorySettings
from services.models.settings import ModelsSettings
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from services.orchestrator.worker.settings import WorkerSettings
from services.suite.settings import SuiteSettings

DOCS = Path(__file__).parents[1] / "docs"
PAGES: dict[str, dict[str, type[BaseSettings]]] = {
    "settings.md": {
        "common": CommonSettings,
        "service": ServiceSettings,
        "suite": SuiteSettings,
        "auth": AuthSettings,
        "limits": LimitSettings,
        "memory": MemorySettings,
        "orchestrator": OrchestratorSettings,
        "worker": WorkerSettings,
        "tools": ToolGatewaySettings,
    },
    "models.md": {"models": ModelsSettings},
}
"""The tables of each page, by the names that its marks have."""

_EACH_SERVICE = "COXSWAIN_<SERVICE>_"
_TABLE = re.compile(r"(<!-- settings of (\w+): [^>]*-->\n).*?(<!-- end of settings -->\n)", re.DOTALL)


def with_tables(name: str) -> str:
    """Return a page of docs/ with its tables of settings as the settings classes have them.

    Raises:
        ValueError: the page lacks the marks of a table.
        KeyError: it has marks of an unknown one.
    """
    kinds = dict(PAGES[name])

    def table(found: re.Match[str]) -> str:
        rows = "\n".join(["| variable | default | meaning |", "|---|---|---|", *_rows(kinds.pop(found[2]))])
        return f"{found[1]}\n{rows}\n\n{found[3]}"

    page = _TABLE.sub(table, (DOCS / name).read_text(encoding="utf-8"))
    if kinds:
        raise ValueError(f"docs/{name} has no marks for the settings of {', '.join(kinds)}")
    return page


def _rows(kind: type[BaseSettings]) -> Iterator[str]:
    prefix = _EACH_SERVICE if kind is ServiceSettings else kind.model_config["env_prefix"]
    for name, field in kind.model_fields.items():
        variables = ", ".join(f"`{variable}`" for variable in variables_of_field(name, field, prefix))
        yield f"| {variables} | {_default(field.default)} | {_meaning(field)} |"


def _meaning(field: FieldInfo) -> str:
    return re.sub(
        r"\(docs/([\w-]+\.md)\)", r"([\1](\1))", (field.description or "").replace("|", "\\|").replace("<", "&lt;")
    )


def _default(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, Path):
        return f"`{value}`" if not value.is_absolute() else f"`{value.name}` of the package"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


if __name__ == "__main__":
    for page in PAGES:
        (DOCS / page).write_text(with_tables(page), encoding="utf-8")
