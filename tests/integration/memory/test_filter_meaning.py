"""Any filter selects the same records in every store, and what cannot be one is refused by the path of its field."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from google.protobuf.json_format import ParseDict
from hypothesis import HealthCheck, settings
from hypothesis import given as given_examples
from hypothesis import strategies as st

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from services.common.grpc.json_values import to_struct
from tests.integration.auth.support import refused
from tests.integration.memory.support import place, stub, unified
from tests.support.harness import Harness

INVALID = grpc.StatusCode.INVALID_ARGUMENT
LONG_KEY = "k" * 10_000
# How a path that is too long for an answer ends, and how much of it is there at least.
_CUT, _LEAST_KEPT = " [...]", 100
KEYS = ["a", "b", "a.b", 'a"b', "a'b", "", " ", "%", "_", "\\", "é", "e\u0301", "日本", "\u202e", "[0]", "$a", LONG_KEY]
PATH_KEYS = [key for key in KEYS if len(key) <= 1024]
TEXTS = ["", "a", "A", "ab", "100%", "a_b", "%", "_", ".*", "^a$", "a'b", 'a"b', "\\", "ß", "日本", "1", "true", "a b"]
NUMBERS: list[float] = [0, -0.0, 1, -1, 0.1, 2**53, -(2**53), 2.0**63, 1e300, -1e300, 5e-324]
SCALARS: list[Any] = [None, True, False, *NUMBERS, *TEXTS]
NESTED: list[Any] = [[], {}, [1], [1, "a"], [None], [[1]], {"a": 1}, {"a": {"b": "x"}}, {"b": [1, "1", True]}]
START = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = [datetime(1, 1, 1, tzinfo=UTC), *(START + timedelta(days=days) for days in range(4))]
TIMES.append(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
IMPORTANCES = [0.0, 0.1, 0.5, 1.0]
COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "LESS": lambda one, other: one < other,
    "LESS_OR_EQUAL": lambda one, other: one <= other,
    "GREATER": lambda one, other: one > other,
    "GREATER_OR_EQUAL": lambda one, other: one >= other,
}


def _records() -> list[dict[str, Any]]:
    # Larger whole numbers may have been rounded, and are not stored.
    values = [each for each in (*SCALARS, *NESTED) if not isinstance(each, float) or abs(each) <= 2**53]
    found = []
    for number in range(40):
        keys = KEYS[number % len(KEYS) :: 5]
        metadata = {key: values[(number * 7 + at * 3) % len(values)] for at, key in enumerate(keys)}
        metadata["a"] = values[number % len(values)]
        found.append(
            {
                "id": f"r{number}",
                "source": TEXTS[number % len(TEXTS)],
                "session_id": TEXTS[(number * 5) % len(TEXTS)],
                "importance": IMPORTANCES[number % 4],
                "scope": ["/", "/a", "/a/b", "/%", "/ab"][number % 5],
                "categories": [[], ["x"], ["x", "y"], ["a'b"]][number % 4],
                "created": START + timedelta(days=number % 4),
                "metadata": metadata,
            }
        )
    return found


RECORDS = _records()

# What filters mean, as their protos say it


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return float(one) == float(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)


def _column_holds(record: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    value, operator = record[condition["column"]], condition["operator"].removeprefix("COMPARISON_OPERATOR_")
    wanted = [next(iter(each.values())) for each in condition["values"]]
    if operator in ("EQUAL", "NOT_EQUAL"):
        return bool((value in wanted) == (operator == "EQUAL"))
    if operator == "STARTS_WITH":
        return bool(value.startswith(wanted[0]))
    return bool(COMPARISONS[operator](value, wanted[0]))


def _metadata_holds(metadata: Any, condition: Mapping[str, Any]) -> bool:
    operator = condition["operator"].removeprefix("METADATA_OPERATOR_")
    value = metadata
    for key in condition["path"]:
        if not isinstance(value, dict) or key not in value:
            return bool(operator == "NOT_EQUAL")
        value = value[key]
    wanted = condition.get("values", [])
    if operator == "EXISTS":
        return True
    if operator in ("EQUAL", "NOT_EQUAL"):
        return bool(any(_same(value, each) for each in wanted) == (operator == "EQUAL"))
    if operator == "CONTAINS":
        return isinstance(value, list) and any(_same(item, each) for item in value for each in wanted)
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (value, wanted[0]))
    texts = isinstance(value, str) and isinstance(wanted[0], str)
    return (numbers or texts) and bool(COMPARISONS[operator](value, wanted[0]))


def _holds(record: Mapping[str, Any], expression: Mapping[str, Any]) -> bool:
    ((shape, inner),) = expression.items()
    match shape:
        case "all_of":
            return all(_holds(record, each) for each in inner["expressions"])
        case "any_of":
            return any(_holds(record, each) for each in inner["expressions"])
        case "negated":
            return not _holds(record, inner)
        case "condition":
            return _column_holds(record, inner)
        case _:
            return _metadata_holds(record["metadata"], inner)


def _selected(record: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    prefix = chosen.get("scope_prefix", "/")
    return (
        (prefix == "/" or record["scope"] == prefix or record["scope"].startswith(f"{prefix}/"))
        and ("categories" not in chosen or bool(set(chosen["categories"]) & set(record["categories"])))
        and set(chosen.get("all_categories", [])) <= set(record["categories"])
        and all(key in record["metadata"] and _same(record["metadata"][key], value) for key, value in _of(chosen))
        and ("created_before" not in chosen or record["created"] < datetime.fromisoformat(chosen["created_before"]))
        and ("created_after" not in chosen or record["created"] >= datetime.fromisoformat(chosen["created_after"]))
        and all(_column_holds(record, each) for each in chosen.get("conditions", []))
        and ("expression" not in chosen or _holds(record, chosen["expression"]))
    )


def _of(chosen: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from chosen.get("metadata", {}).items()


# Filters

values = st.sampled_from([*SCALARS, *NESTED])
texts = st.sampled_from(TEXTS).map(lambda text: {"text": text})
numbers = st.sampled_from([*IMPORTANCES, 0.3, 1e300, -1e300, 1e39, 5e-324]).map(lambda number: {"number": number})


def _conditions(column: str, operators: list[str], value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = {"EQUAL", "NOT_EQUAL"}
    return st.sampled_from(operators).flatmap(
        lambda operator: st.lists(value, min_size=1, max_size=3 if operator in several else 1).map(
            lambda given: {"column": column, "operator": f"COMPARISON_OPERATOR_{operator}", "values": given}
        )
    )


ORDERED = ["EQUAL", "NOT_EQUAL", *COMPARISONS]
conditions = (
    _conditions("source", [*ORDERED, "STARTS_WITH"], texts)
    | _conditions("session_id", [*ORDERED, "STARTS_WITH"], texts)
    | _conditions("importance", ORDERED, numbers)
)


@st.composite
def metadata_conditions(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(["EQUAL", "NOT_EQUAL", "CONTAINS", "EXISTS", *COMPARISONS]))
    path = draw(st.lists(st.sampled_from(PATH_KEYS), min_size=1, max_size=2))
    condition = {"path": path, "operator": f"METADATA_OPERATOR_{operator}"}
    if operator == "EXISTS":
        return condition
    if operator in COMPARISONS:
        return condition | {"values": [draw(st.sampled_from([*NUMBERS, *TEXTS]))]}
    return condition | {"values": draw(st.lists(values, min_size=1, max_size=3))}


def _joined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    parts = st.lists(inner, min_size=1, max_size=4).map(lambda given: {"expressions": given})
    return (
        parts.map(lambda given: {"all_of": given})
        | parts.map(lambda given: {"any_of": given})
        | inner.map(lambda given: {"negated": given})
    )


leaves = conditions.map(lambda given: {"condition": given}) | metadata_conditions().map(lambda g: {"metadata": g})
expressions = st.recursive(leaves, _joined, max_leaves=12).filter(lambda given: _depth(given) <= 8)
moments = st.sampled_from(TIMES).map(lambda moment: moment.isoformat())
categories = st.lists(st.sampled_from(["x", "y", "a'b", "%"]), min_size=1, max_size=2)
chosen_filters = st.fixed_dictionaries(
    {},
    optional={
        "conditions": st.lists(conditions, min_size=1, max_size=3),
        "scope_prefix": st.sampled_from(["/", "/a", "/%", "/ab", "/none"]),
        "categories": categories,
        "all_categories": categories,
        "metadata": st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=2),
        "created_before": moments,
        "created_after": moments,
        "expression": expressions,
    },
)


def _depth(expression: Mapping[str, Any]) -> int:
    ((shape, inner),) = expression.items()
    if shape in ("all_of", "any_of"):
        return 1 + max(map(_depth, inner["expressions"]))
    return 1 + _depth(inner) if shape == "negated" else 1


def _record(values: Mapping[str, Any]) -> record_pb2.Record:
    fields = {name: value for name, value in values.items() if name not in ("id", "created", "metadata")}
    record = unified("text", values["id"], embedding=[1, 0, 0], metadata=to_struct(values["metadata"]), **fields)
    record.create_time.FromDatetime(values["created"])
    return record


@pytest.fixture
async def filled(everywhere: Harness, store: tuple[str, str]) -> Harness:
    memories = stub(everywhere.channel())
    given = [*map(_record, RECORDS)]
    if store[0] == "databricks":
        for record in given:
            record.embedding.extend([0.0] * 29)
    request = pb.SaveRecordsRequest(namespace=place(), records=given)
    if store[0] != "databricks":
        request.embedding_model = "test/three"
    await memories.SaveRecords(request)
    return everywhere


@pytest.mark.timeout(300)
async def test_every_filter_selects_what_its_description_says(filled: Harness, store: tuple[str, str]) -> None:
    memories = stub(filled.channel())
    vector = pb.Vector(values=[1] + [0] * (31 if store[0] == "databricks" else 2))
    loop = asyncio.get_running_loop()

    async def found(chosen: Mapping[str, Any]) -> list[set[str]]:
        given: dict[str, Any] = {"namespace": place(), "filter": ParseDict(dict(chosen), pb.RecordFilter())}
        listed = await memories.ListRecords(pb.ListRecordsRequest(**given, page_size=100))
        search = await memories.SearchRecords(pb.SearchRecordsRequest(**given, vector=vector, limit=100))
        return [{record.id for record in listed.records}, {result.record.id for result in search.results}]

    @given_examples(chosen_filters)
    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def check(chosen: dict[str, Any]) -> None:
        expected = {record["id"] for record in RECORDS if _selected(record, chosen)}
        assert asyncio.run_coroutine_threadsafe(found(chosen), loop).result(60) == [expected] * 2

    await asyncio.to_thread(check)


# What is refused


def _nested(levels: int, leaf: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(levels):
        leaf = {"negated": leaf}
    return leaf


def _wide(parts: int) -> Mapping[str, Any]:
    return {"any_of": {"expressions": [{"metadata": {"path": ["a"], "values": [1]}}] * parts}}


def _metadata(**fields: Any) -> Mapping[str, Any]:
    return {"expression": {"metadata": {"path": ["a"], **fields}}}


def _condition(**fields: Any) -> Mapping[str, Any]:
    return {"conditions": [{"column": "importance", "values": [{"number": 1}], **fields}]}


LEAF = {"metadata": {"path": ["a"], "values": [1]}}
LESS = "METADATA_OPERATOR_LESS"
_REFUSED: list[tuple[str, Mapping[str, Any], str]] = [
    ("too deep", {"expression": _nested(8, LEAF)}, "filter.expression" + ".negated" * 8),
    ("far too deep", {"expression": _nested(60, LEAF)}, "filter.expression" + ".negated" * 8),
    ("too many in one", {"expression": _wide(65)}, "filter.expression.any_of.expressions"),
    ("thousands in one", {"expression": _wide(2_000)}, "filter.expression.any_of.expressions"),
    ("tens of thousands in one", {"expression": _wide(20_000)}, "filter.expression.any_of.expressions"),
    ("too many in all", {"expression": {"all_of": {"expressions": [_wide(64)] * 4}}}, "filter.expression"),
    ("nothing", {"expression": {}}, "filter.expression.expression"),
    (
        "nothing within",
        {"expression": {"all_of": {"expressions": [{}]}}},
        "filter.expression.all_of.expressions[0].expression",
    ),
    ("no path", _metadata(path=[], values=[1]), "filter.expression.metadata.path"),
    ("a long key", _metadata(path=["a", LONG_KEY], values=[1]), "filter.expression.metadata.path[1]"),
    ("a long path", _metadata(path=["a"] * 33, values=[1]), "filter.expression.metadata.path"),
    ("an unknown operator", _metadata(operator=99, values=[1]), "filter.expression.metadata.operator"),
    ("no values", _metadata(), "filter.expression.metadata.values"),
    (
        "values of EXISTS",
        _metadata(operator="METADATA_OPERATOR_EXISTS", values=[1]),
        "filter.expression.metadata.values",
    ),
    ("two bounds", _metadata(operator=LESS, values=[1, 2]), "filter.expression.metadata.values"),
    ("an order of lists", _metadata(operator=LESS, values=[[1]]), "filter.expression.metadata.values[0]"),
    ("an order of nothing", _metadata(operator=LESS, values=[None]), "filter.expression.metadata.values[0]"),
    ("many values", _metadata(values=[1] * 1001), "filter.expression.metadata.values"),
    ("U+0000", {"metadata": {"a\0b": 1}}, "filter.metadata"),
    ("U+0000 of a path", _metadata(path=["a\0b"], values=[1]), "filter.expression.metadata.path[0]"),
    ("another column", _condition(column="group_id"), "filter.conditions[0].column"),
    ("no column", _condition(column="importance; --"), "filter.conditions[0].column"),
    ("another type", _condition(values=[{"text": "1"}]), "filter.conditions[0].values[0]"),
    ("an infinite bound", _condition(values=[{"number": "Infinity"}]), "filter.conditions[0].values[0]"),
    ("no number", _condition(values=[{"number": "NaN"}]), "filter.conditions[0].values[0]"),
    ("no value", _condition(values=[{}]), "filter.conditions[0].values[0].value"),
    (
        "no order",
        _condition(operator="COMPARISON_OPERATOR_LESS", values=[{"number": 1}] * 2),
        "filter.conditions[0].values",
    ),
    (
        "words of %",
        _condition(column="source", operator="COMPARISON_OPERATOR_CONTAINS", values=[{"text": "%"}]),
        "filter.conditions[0].values[0]",
    ),
    ("too many conditions", {"conditions": _condition()["conditions"] * 65}, "filter.conditions"),
    ("many pairs", {"metadata": {f"k{n}": 1 for n in range(33)}}, "filter.metadata"),
    ("a long scope", {"scope_prefix": "/" + "a" * 600}, "filter.scope_prefix"),
]


def _numbers(*numbers: float) -> struct_pb2.ListValue:
    return struct_pb2.ListValue(values=[struct_pb2.Value(number_value=number) for number in numbers])


def _refused() -> Iterator[tuple[str, pb.RecordFilter, str]]:
    """Yield filters and the fields that are wrong in them, those with numbers that JSON does not have too."""
    for name, chosen, field in _REFUSED:
        yield name, ParseDict(dict(chosen), pb.RecordFilter()), field
    nan, infinite = float("nan"), float("inf")
    whole = pb.RecordFilter()
    whole.metadata["a"].number_value = nan
    yield "not a number", whole, 'filter.metadata["a"]'
    long = pb.RecordFilter()
    long.metadata[LONG_KEY].list_value.CopyFrom(_numbers(1, nan))
    yield "not a number below a long key", long, f'filter.metadata["{LONG_KEY}"][1]'
    value = pb.RecordFilter()
    value.expression.metadata.path.append("a")
    value.expression.metadata.values.extend(_numbers(1, infinite).values)
    yield "an infinite number", value, "filter.expression.metadata.values[1]"
    inner = pb.RecordFilter()
    inner.expression.metadata.path.append("a")
    inner.expression.metadata.values.add().list_value.CopyFrom(_numbers(1, nan))
    yield "not a number within", inner, "filter.expression.metadata.values[0][1]"


def _cut(field: str, named: str) -> str:
    """Return a field's path, cut where long ones are cut if `named` says that it was."""
    kept = named.removesuffix(_CUT)
    return field[: len(kept)] + _CUT if kept != named and len(kept) >= _LEAST_KEPT else field


async def test_what_is_no_filter_is_refused_by_its_field(memory: Harness) -> None:
    memories = stub(memory.channel())
    calls: Mapping[str, Callable[[dict[str, Any]], Any]] = {
        "list": lambda given: memories.ListRecords(pb.ListRecordsRequest(**given)),
        "search": lambda given: memories.SearchRecords(pb.SearchRecordsRequest(**given, text="a")),
        "count": lambda given: memories.CountRecords(pb.CountRecordsRequest(**given)),
        "delete": lambda given: memories.DeleteRecords(pb.DeleteRecordsRequest(**given)),
        "export": lambda given: memories.ExportRecords(pb.ExportRecordsRequest(**given)).read(),
    }
    wrong = {}
    for number, (name, chosen, field) in enumerate(_refused()):
        # The first ones in every call, which read filters alike.
        for call, made in list(calls.items())[: None if number < 2 else 1]:
            with refused(INVALID, "INVALID_FIELD") as refusal:
                await made({"namespace": place(), "filter": chosen})
            if [_cut(field, named) for named in refusal.fields] != refusal.fields:
                wrong[name, call] = refusal.fields
    assert wrong == {}
