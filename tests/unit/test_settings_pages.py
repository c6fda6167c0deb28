"""docs/ has every setting, with the default that it has in the code."""

import re

import pytest

from services.common.environment import variables_of
from services.common.settings import ServiceSettings
from tools.write_settings_tables import DOCS, PAGES, with_tables


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_the_settings_with_their_defaults_and_meaning(page: str) -> None:
    assert with_tables(page) == (DOCS / page).read_text(encoding="utf-8"), "run `make settings-tables`"


def test_every_settings_class_has_a_table() -> None:
    shown = {kind.__name__ for kinds in PAGES.values() for kind in kinds.values()}
    written = set()
    for module in (DOCS.parent / "services").rglob("*settings.py"):
        written |= set(re.findall(r"^class (\w+)\(BaseSettings\)", module.read_text(encoding="utf-8"), re.MULTILINE))
    assert shown == written


def test_the_variables_that_most_installations_need_are_settings() -> None:
    known = {
        name
        for kinds in PAGES.values()
        for kind in kinds.values()
        for name in variables_of(kind, kind.model_config.get("env_prefix", ""))
    }
    for service in ("AUTH", "MODELS", "MEMORY", "ORCHESTRATOR", "TOOLS"):
        known.update(variables_of(ServiceSettings, f"COXSWAIN_{service}_"))
    overview = (DOCS / "settings.md").read_text(encoding="utf-8").partition("## All processes")[0]
    named = set(re.findall(r"`(COXSWAIN_[A-Z_]*[A-Z])`", overview))
    assert len(named) > 15
    assert named <= known
