"""Names of tools for models, and hashes of tools."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_identity import collisions, model_name, source_of, tool_hash, tool_of

SOURCES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
TOOL_NAMES = st.text(min_size=1, max_size=200)
NAMES = st.builds("{}/{}".format, SOURCES, TOOL_NAMES)


@given(NAMES)
def test_every_name_becomes_one_that_models_take(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", model_name(name))
    assert model_name(name) == model_name(name)


@given(st.sets(st.one_of(NAMES, st.builds("a/{}".format, TOOL_NAMES)), min_size=2, max_size=20))
def test_two_tools_never_get_the_same_name(names: set[str]) -> None:
    assert len({model_name(name) for name in names}) == len(names)


@given(SOURCES, TOOL_NAMES)
def test_a_name_gives_back_its_source_and_what_the_source_calls_the_tool(source: str, tool: str) -> None:
    assert (source_of(f"{source}/{tool}"), tool_of(f"{source}/{tool}")) == (source, tool)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("calculator", "calculator"), ("billing/pay", "billing__pay"), ("billing/getInvoice", "billing__getInvoice")],
)
def test_a_name_that_fits_stays_readable(name: str, shown: str) -> None:
    assert model_name(name) == shown


def test_a_name_is_rewritten_where_models_would_refuse_it() -> None:
    assert re.fullmatch(r"billing__pay_now_[0-9a-f]{10}", model_name("billing/pay.now"))
    assert re.fullmatch(r"tool_3d__print_[0-9a-f]{10}", model_name("3d/print"))
    long = model_name(f"billing/{'x' * 100}")
    assert len(long) == 64
    assert long != model_name(f"billing/{'x' * 101}")


def test_built_in_names_cannot_be_those_of_a_source() -> None:
    assert all("__" not in name and "/" not in name for name in TOOLS)


def test_names_collide_where_they_differ_in_what_is_not_told_apart() -> None:
    assert collisions(["crm/get_user", "crm/getUser", "crm/pay"]) == [("crm/get_user", "crm/getUser")]
    assert collisions(["a/bc", "ab/c"]) == []


def test_a_hash_changes_with_all_that_counts_and_with_nothing_else() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}}
    same = {"properties": {"b": {}, "a": {"type": "string"}}, "type": "object"}
    base = tool_hash("pay", "Pays.", schema, None, None)
    assert base == tool_hash("pay", "Pays.", same, None, None)
    others = [
        tool_hash("pays", "Pays.", schema),
        tool_hash("pay", "Pays!", schema),
        tool_hash("pay", "Pays.", {"type": "object"}),
        tool_hash("pay", "Pays.", schema, {}),
        tool_hash("pay", "Pays.", schema, None, True),
        tool_hash("pay", "Pays.", schema, None, False),
    ]
    assert len({base, *others}) == 7
    assert tool_hash("pay", "\ud800", schema) != base
