"""OpenAPI documents become tools, and arguments go exactly where the document says."""

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.common.errors import InvalidArgument
from services.orchestrator.domain.tool_source import OnToolChange, OpenApiDocument, SourceKind, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.http_templates import BadArgument
from services.orchestrator.tool_gateway.adapters.openapi.adapter import OpenApiAdapter
from services.orchestrator.tool_gateway.adapters.openapi.compiler import compile_document
from services.orchestrator.tool_gateway.adapters.openapi.document import BadDocument, load
from services.orchestrator.tool_gateway.adapters.openapi.parameters import (
    fill_operation_path,
    header_value,
    query_pairs,
)
from services.orchestrator.tool_gateway.parsing.parser import BoundedParser
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, ToolResult
from services.orchestrator.tool_identity import listed_hash
from tests.support.tool_adapters import (
    TOKEN,
    FixedCredentials,
    RecordedProgress,
    RecordingApi,
    call_of,
    egress_of,
    principal_of,
)

SHORT = """
openapi: 3.0.3
paths:
  /orders/{id}:
    get:
      operationId: order
      description: Does what has to be done with an order.
      parameters: [{name: id, in: path, required: true, schema: {type: string}}]
"""
ORDERS = """
openapi: 3.0.3
info: {title: Orders, version: "1"}
servers: [{url: https://elsewhere.example.com}]
security: [{key: []}]
components:
  securitySchemes: {key: {type: apiKey, in: header, name: X-Key}}
  parameters:
    Id: {name: id, in: path, required: true, schema: {type: string}}
  schemas:
    Item:
      type: object
      required: [name, number]
      properties:
        number: {type: integer, readOnly: true}
        name: {type: string, nullable: true, example: pen}
        parts: {type: array, items: {$ref: '#/components/schemas/Item'}}
        price: {type: number, minimum: 0, exclusiveMinimum: true}
        kind: {type: string, enum: [NO, YES, 2024-01-01]}
paths:
  /orders/{id}:
    parameters: [{$ref: '#/components/parameters/Id'}]
    get:
      operationId: getOrder
      summary: Returns an order
      parameters:
        - {name: id, in: query, schema: {type: integer}}
        - {name: 'filter[state]', in: query, schema: {type: string}}
        - {name: X-Trace, in: header, schema: {type: string}}
        - {name: Authorization, in: header, schema: {type: string}}
        - {name: X-Real-IP, in: header, schema: {type: string}}
        - {name: Sec-Fetch-Site, in: header, schema: {type: string}}
        - {name: Content-Type, in: header, schema: {type: string}}
        - {name: session, in: cookie, schema: {type: string}}
      responses: {200: {description: ok}}
    put:
      operationId: replaceOrder
      requestBody:
        required: true
        content: {application/json: {schema: {$ref: '#/components/schemas/Item'}}}
      responses: {200: {description: ok}}
  /orders:
    post:
      operationId: createOrder
      parameters: [{name: body, in: query, schema: {type: string}}]
      requestBody:
        required: true
        content:
          application/xml: {schema: {type: string}}
          application/vnd.shop+json: {schema: {$ref: '#/components/schemas/Item'}}
      responses: {201: {description: made}}
  /upload:
    post:
      operationId: upload
      requestBody: {required: true, content: {multipart/form-data: {schema: {type: object}}}}
      responses: {200: {description: ok}}
  /search:
    get:
      parameters:
        - {name: q, in: query, content: {application/json: {schema: {type: object}}}}
      responses: {200: {description: ok}}
"""


@pytest.fixture(scope="module")
def tools() -> dict[str, Any]:
    return {tool["name"]: tool for tool in compile_document(ORDERS, [])["tools"]}


def test_operations_become_tools_with_complete_schemas(tools: Mapping[str, Any]) -> None:
    assert sorted(tools) == ["createOrder", "getOrder", "get__search", "replaceOrder"]
    get = tools["getOrder"]["schema"]
    assert list(get["properties"]) == ["id", "id_query", "filter_state_", "X-Trace"]
    assert get["required"] == ["id"]
    assert [(binding["argument"], binding["in"], binding["name"]) for binding in tools["getOrder"]["bindings"]] == [
        ("id", "path", "id"),
        ("id_query", "query", "id"),
        ("filter_state_", "query", "filter[state]"),
        ("X-Trace", "header", "X-Trace"),
    ]
    assert "cookie" in tools["getOrder"]["warnings"][0]
    assert list(tools["createOrder"]["schema"]["properties"]) == ["body", "body_content"]
    for tool in tools.values():
        Draft202012Validator.check_schema(tool["schema"])


def test_schemas_of_3_0_mean_the_same_in_2020_12(tools: Mapping[str, Any]) -> None:
    schema = tools["replaceOrder"]["schema"]
    item = schema["$defs"]["Item"]
    assert item["required"] == ["name"]
    assert "number" not in item["properties"]
    assert item["properties"]["price"] == {"type": "number", "exclusiveMinimum": 0}
    assert item["properties"]["kind"]["enum"] == ["NO", "YES", "2024-01-01"]
    validator = Draft202012Validator(schema)
    good = {"id": "1", "body": {"name": None, "parts": [{"name": "x", "parts": []}], "more": 1}}
    assert validator.is_valid(good)
    for bad in ({"name": "x", "price": 0}, {}, {"name": "x", "parts": [{"name": 3}]}):
        assert not validator.is_valid({"id": "1", "body": bad})


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ("upload", "multipart/form-data"),
        ("getOrders", "near to it are getOrder"),
    ],
)
def test_a_chosen_operation_that_cannot_be_a_tool_is_an_error(chosen: str, text: str) -> None:
    with pytest.raises(BadDocument, match=text):
        compile_document(ORDERS, [chosen])


def test_operations_are_chosen_by_their_ids_in_the_document() -> None:
    paths = {"/x": {"get": {"operationId": "pets.list"}, "post": {"operationId": "pets.add"}}}
    (tool,) = compile_document(document(paths), ["pets.list"])["tools"]
    assert (tool["name"], tool["method"]) == ("pets_list", "GET")


# Hostile documents


def document(paths: Any, **more: Any) -> str:
    return json.dumps({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths, **more})


def one_parameter(schema: Any, **more: Any) -> str:
    parameter = {"name": "x", "in": "query", "schema": schema}
    return document({"/x": {"get": {"operationId": "op", "parameters": [parameter]}}}, **more)


BOMB = "openapi: 3.0.0\na: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "aliases written out"),
        ("openapi: 3.0.0\na: &a\n  b: *a\n", "nested deeper"),
        ("openapi: 3.0.0\npaths: !!python/object/apply:os.system ['true']\n", "not valid JSON or YAML"),
        ("openapi: 3.0.0\nx: !!binary aGk=\n", "values that JSON does not know"),
        ('{"openapi": "3.0.0", "x": NaN}', "values that JSON does not know"),
        ("{" + '"a":{' * 200 + "}" * 201, "nested deeper|not valid"),
        ("[" * 100_000, "not valid|nested"),
        ("swagger: '2.0'", "not OpenAPI 3.0 or 3.1"),
        ("openapi: 4.0.0", "not OpenAPI 3.0 or 3.1"),
        ("", "not OpenAPI"),
        ("\x00", "not valid"),
        ("openapi: 3.0.0\n# " + "x" * (2 * 1024 * 1024), "larger than"),
        (document([]), "paths has to be an object"),
    ],
)
def test_documents_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(BadDocument, match=problem):
        compile_document(text, [])


@pytest.mark.parametrize(
    "reference",
    ["https://example.com/x.json", "other.yaml#/a", "file:///etc/passwd", "#/nothing", "#/paths/~1x/nothing"],
)
def test_references_stay_inside(reference: str) -> None:
    with pytest.raises(BadDocument, match="leads"):
        compile_document(one_parameter({"$ref": reference}), ["op"])


def test_references_in_circles_end() -> None:
    schemas = {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}}
    text = one_parameter({"$ref": "#/components/schemas/A"}, components={"schemas": schemas})
    (tool,) = compile_document(text, [])["tools"]
    assert tool["schema"]["$defs"] == {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}
    circle = document({"/x": {"$ref": "#/paths/~1y"}, "/y": {"$ref": "#/paths/~1x"}})
    with pytest.raises(BadDocument, match="circle"):
        compile_document(circle, [])


def test_a_huge_schema_is_left_open_and_said_so() -> None:
    schemas = {
        f"S{n}": {
            "type": "object",
            "description": "d" * 5000,
            "properties": {"next": {"$ref": f"#/components/schemas/S{n + 1}"}},
        }
        for n in range(100)
    }
    schemas["S100"] = {}
    (tool,) = compile_document(one_parameter({"$ref": "#/components/schemas/S0"}, components={"schemas": schemas}), [])[
        "tools"
    ]
    assert len(json.dumps(tool["schema"])) < 200_000
    assert "too large" in tool["warnings"][0]
    Draft202012Validator(tool["schema"]).validate({"x": {"next": {}}})


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None, True, 0, -1.5, "", "x", "#", "#/paths", [], {}, [None], [[]], {"$ref": 1}, {"$ref": "#/components"},
        {"$ref": "#/components/schemas/Item"}, {"type": ["a", 1]}, {"required": [1, {}, None]}, {"properties": []},
        {"content": {"application/json": []}}, {"in": "query"}, {"": {}},
    ]
)  # fmt: skip


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    members = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, member in members:
        yield (*path, step)
        yield from _places(member, (*path, step))


LOADED = load(ORDERS)
PLACES = sorted(_places(LOADED), key=str)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(PLACES), ODD), min_size=1, max_size=3))
def test_documents_with_anything_anywhere_are_read_or_refused(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    changed = copy.deepcopy(LOADED)
    for (*path, last), value in changes:
        node: Any = changed
        # What an earlier change has cut off is not there any more.
        with contextlib.suppress(LookupError, TypeError):
            for step in path:
                node = node[step]
            # Another change may be within this one.
            node[last] = copy.deepcopy(value)
    with contextlib.suppress(BadDocument):
        for tool in compile_document(json.dumps(changed), [])["tools"]:
            Draft202012Validator.check_schema(tool["schema"])
            json.dumps(tool, allow_nan=False)


def test_names_of_arguments_are_those_models_accept() -> None:
    parameters = [{"name": name, "in": "query"} for name in ("a b", "a_b", "a/b", "é", "", "x" * 100)]
    (tool,) = compile_document(document({"/x": {"get": {"operationId": "né v/1", "parameters": parameters}}}), [])[
        "tools"
    ]
    names = list(tool["schema"]["properties"])
    assert len(set(names)) == len(parameters)
    assert all(
        (len(name) <= 64 and name.replace("_", "").replace("-", "").isalnum()) or set(name) == {"_"} for name in names
    )
    assert [binding["name"] for binding in tool["bindings"]] == [parameter["name"] for parameter in parameters]


# Styles, by the table of the specification


def binding(location: str, style: str, *, explode: bool, **more: Any) -> dict[str, Any]:
    given = {"argument": "color", "name": "color", "in": location, "style": style, "explode": explode}
    return given | {"reserved": False, "required": True, "json": False} | more


LIST, OBJECT = ["blue", "black"], {"R": 100, "G": 200}


@pytest.mark.parametrize(
    ("style", "explode", "value", "expected"),
    [
        ("simple", False, "blue", "blue"),
        ("simple", False, LIST, "blue,black"),
        ("simple", False, OBJECT, "R,100,G,200"),
        ("simple", True, OBJECT, "R=100,G=200"),
        ("label", False, "blue", ".blue"),
        ("label", False, LIST, ".blue,black"),
        ("label", True, LIST, ".blue.black"),
        ("label", True, OBJECT, ".R=100.G=200"),
        ("matrix", False, "blue", ";color=blue"),
        ("matrix", False, LIST, ";color=blue,black"),
        ("matrix", True, LIST, ";color=blue;color=black"),
        ("matrix", False, OBJECT, ";color=R,100,G,200"),
        ("matrix", True, OBJECT, ";R=100;G=200"),
    ],
)
def test_styles_of_paths(style: str, explode: bool, value: Any, expected: str) -> None:
    bindings = [binding("path", style, explode=explode)]
    assert fill_operation_path("/x/{color}/y", bindings, {"color": value}) == f"/x/{expected}/y"


@pytest.mark.parametrize(
    ("style", "explode", "value", "expected"),
    [
        ("form", True, "a&b", "color=a%26b"),
        ("form", True, LIST, "color=blue&color=black"),
        ("form", False, LIST, "color=blue,black"),
        ("form", False, ["a,b", "c"], "color=a%2Cb,c"),
        ("form", True, OBJECT, "R=100&G=200"),
        ("form", False, OBJECT, "color=R,100,G,200"),
        ("form", True, True, "color=true"),
        ("form", True, None, ""),
        ("form", True, [], ""),
        ("spaceDelimited", False, LIST, "color=blue%20black"),
        ("pipeDelimited", False, LIST, "color=blue%7Cblack"),
        ("deepObject", True, OBJECT, "color%5BR%5D=100&color%5BG%5D=200"),
        ("deepObject", True, {"a": {"b": [1, 2]}, "c": None}, "color%5Ba%5D%5Bb%5D=1&color%5Ba%5D%5Bb%5D=2"),
    ],
)
def test_styles_of_queries(style: str, explode: bool, value: Any, expected: str) -> None:
    assert "&".join(query_pairs(binding("query", style, explode=explode), value)) == expected


@given(st.text(st.characters(exclude_categories=["Cs"])), st.booleans())
def test_no_query_value_ends_its_parameter(value: str, reserved: bool) -> None:
    query = "&".join(query_pairs(binding("query", "form", explode=True, reserved=reserved), value))
    assert parse_qsl(query, keep_blank_values=True) == [("color", value)]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_no_path_value_leaves_its_segment(value: str) -> None:
    try:
        path = fill_operation_path("/x/{color}/y", [binding("path", "simple", explode=False)], {"color": value})
    except BadArgument:
        return
    assert path.count("/") == 3
    assert not set(path) & set("?#\\ ")
    assert unquote(path.split("/")[2]) == value


@pytest.mark.parametrize("value", ["a\r\nX-Admin: 1", "\x00", ["a", "b\n"], {"a\n": 1}])
def test_no_header_value_ends_its_header(value: Any) -> None:
    with pytest.raises(BadArgument):
        header_value(binding("header", "simple", explode=False), value)


# Calls


@pytest.fixture
async def parser() -> AsyncIterator[BoundedParser]:
    parser = BoundedParser(cpu_seconds=1)
    yield parser
    await parser.close()


@pytest.fixture
async def api() -> AsyncIterator[RecordingApi]:
    async with RecordingApi() as served:
        yield served


def source_of(origin: str, **changes: Any) -> ToolSourceSpec:
    endpoint = OpenApiDocument(**{"base_url": f"{origin}/v2", "document": ORDERS} | changes)
    return ToolSourceSpec("orders", SourceKind.OPENAPI, endpoint, headers={"x-trace": "ours"})


async def called(parser: BoundedParser, api: RecordingApi, tool: str, arguments: Any, **changes: Any) -> ToolResult:
    async with egress_of() as egress:
        adapter = OpenApiAdapter(egress, FixedCredentials(api.url), parser)
        request = call_of(tool, arguments, source=source_of(api.url, **changes), call_id="call-9")
        return await adapter.call(request, RecordedProgress())


async def test_arguments_go_where_the_document_says(parser: BoundedParser, api: RecordingApi) -> None:
    arguments = {"id": "a/b", "id_query": 7, "filter_state_": "x,y&z", "X-Trace": "theirs"}
    result = await called(parser, api, "getOrder", arguments)
    (sent,) = api.requests
    assert sent.target == "/v2/orders/a%2Fb?id=7&filter%5Bstate%5D=x%2Cy%26z"
    # What the group has fixed, and where its credential goes, is no model's to say.
    assert sent.header("x-trace") == ["ours"]
    assert sent.header("authorization") == [f"Bearer {TOKEN}"]
    assert result.structured["path"] == "/v2/orders/a/b"


async def test_bodies_arrive_as_they_were_given(parser: BoundedParser, api: RecordingApi) -> None:
    body: dict[str, Any] = {"name": None, "parts": [], "extra": {"empty": {}}, "price": 1e16}
    arguments = {"body": "q", "body_content": body}
    await called(parser, api, "createOrder", arguments, idempotency_header="Idempotency-Key")
    (sent,) = api.requests
    assert sent.target == "/v2/orders?body=q"
    assert json.loads(sent.body) == body
    assert sent.header("content-type") == ["application/vnd.shop+json"]
    assert sent.header("idempotency-key") == ["call-9"]
    refused = await called(parser, api, "getOrder", {"id": ".."})
    assert refused.is_error
    assert len(api.requests) == 1


async def test_listing_reads_the_document_from_its_address(parser: BoundedParser, api: RecordingApi) -> None:
    api.answer("/openapi.yaml", ORDERS, Content_Type="application/yaml")
    async with egress_of() as egress:
        adapter = OpenApiAdapter(egress, FixedCredentials(api.url), parser)
        source = source_of(api.url, document="", url=f"{api.url}/openapi.yaml", operations=("createOrder", "getOrder"))
        listed = await adapter.list_tools(source, principal_of())
        assert {tool.name: tool.idempotent_hint for tool in listed} == {"createOrder": False, "getOrder": True}
        await adapter.call(call_of("getOrder", {"id": "1"}, source=source), RecordedProgress())
        assert [sent.target for sent in api.requests] == ["/openapi.yaml", "/v2/orders/1"]
        # Another group never gets what this one's credential has read.
        await adapter.call(
            call_of("getOrder", {"id": "1"}, source=source, principal=principal_of("other")), RecordedProgress()
        )
        assert [sent.target for sent in api.requests][2:] == ["/openapi.yaml", "/v2/orders/1"]
        api.answer("/openapi.yaml", BOMB)
        with pytest.raises(InvalidArgument, match="aliases written out"):
            await adapter.list_tools(source, principal_of())
        with pytest.raises(NotSent):
            await adapter.call(call_of("getOrder", {"id": "1"}, source=source), RecordedProgress())


async def test_what_was_listed_as_repeatable_and_is_not_any_more_is_not_called(
    parser: BoundedParser, api: RecordingApi
) -> None:
    source = source_of(api.url)
    async with egress_of() as egress:
        adapter = OpenApiAdapter(egress, FixedCredentials(api.url), parser)
        with pytest.raises(CallRefused, match="must not be called twice") as refused:
            request = call_of("createOrder", {}, source=replace(source, on_change=OnToolChange.EVENT), idempotent=True)
            await adapter.call(replace(request, tool_hash="that of a GET"), RecordedProgress())
    assert refused.value.reason == "TOOL_CHANGED"
    assert api.requests == []


def test_parameters_that_make_another_request_of_an_operation_are_not_sent() -> None:
    optional = "parameters: [{name: _method, in: query}, {name: X-HTTP-Method-Override, in: header}, {name: id,"
    document = SHORT.replace("parameters: [{name: id,", optional)
    (tool,) = compile_document(document, [])["tools"]
    assert set(tool["schema"]["properties"]) == {"id"}
    assert [binding["name"] for binding in tool["bindings"]] == ["id"]
    assert len(tool["warnings"]) == 2
    required = document.replace("name: _method, in: query", "name: _method, in: query, required: true")
    assert compile_document(required, [])["tools"] == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  /orders/{id}:\n    get:", "  /orders/{id}/cancel:\n    get:"),
        ("  /orders/{id}:\n    get:", "  /orders/{id}:\n    delete:"),
        ("in: path,", "in: path, style: label,"),
    ],
)
async def test_an_operation_that_is_sent_otherwise_is_another_tool(
    parser: BoundedParser, api: RecordingApi, before: str, after: str
) -> None:
    api.answer("/doc", SHORT)
    source = source_of(api.url, document="", url=f"{api.url}/doc")
    async with egress_of() as egress:
        adapter = OpenApiAdapter(egress, FixedCredentials(api.url), parser)
        (listed,) = await adapter.list_tools(source, principal_of())
        meant = replace(call_of("order", {"id": "1"}, source=source), tool_hash=listed_hash(listed))
        await adapter.call(meant, RecordedProgress())
        assert before in SHORT
        api.answer("/doc", SHORT.replace(before, after))
        # What was read is what is sent, whatever the document says by now.
        await adapter.call(meant, RecordedProgress())
        assert [sent.target for sent in api.requests] == ["/doc", "/v2/orders/1", "/v2/orders/1"]
        (changed,) = await adapter.list_tools(source, principal_of())
        with pytest.raises(CallRefused, match="no longer what was accepted") as refused:
            await adapter.call(meant, RecordedProgress())
        assert refused.value.reason == "TOOL_CHANGED"
        assert not [sent for sent in api.requests[3:] if sent.target != "/doc"]
        read = len(api.requests)
        with pytest.raises(CallRefused):
            await adapter.call(meant, RecordedProgress())
        assert len(api.requests) == read, "a call that goes on being refused reads the document each time"
        passing = replace(source, on_change=OnToolChange.EVENT)
        await adapter.call(replace(meant, source=passing), RecordedProgress())
        assert api.requests[-1].target != "/doc"
    assert listed.call == f"GET {api.url}/v2/orders/{{id}}"
    assert (listed.call != changed.call) == ("style" not in after)
    assert listed.hash == changed.hash == ""
    assert (listed.arguments_schema, listed.description) == (changed.arguments_schema, changed.description)


async def test_a_document_of_another_origin_is_asked_for_without_the_credential(parser: BoundedParser) -> None:
    async with RecordingApi() as api, RecordingApi() as elsewhere, egress_of() as egress:
        elsewhere.answer("/doc", ORDERS)
        adapter = OpenApiAdapter(egress, FixedCredentials(api.url), parser)
        await adapter.list_tools(source_of(api.url, document="", url=f"{elsewhere.url}/doc"), principal_of())
        (sent,) = elsewhere.requests
        assert sent.header("authorization") == []


async def test_a_document_that_takes_all_time_ends_and_others_are_read(parser: BoundedParser) -> None:
    merges = "openapi: 3.0.0\nx0: &x0 {a: 1}\n" + "".join(
        f"x{n}: &x{n}\n  <<: [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    async with egress_of() as egress:
        adapter = OpenApiAdapter(egress, FixedCredentials("https://example.com"), parser)
        hard = adapter.list_tools(source_of("https://example.com", document=merges), principal_of("hard"))
        easy = adapter.list_tools(source_of("https://example.com"), principal_of("easy"))
        failed, listed = await asyncio.gather(hard, easy, return_exceptions=True)
        assert isinstance(failed, InvalidArgument)
        assert "too much time or memory" in str(failed) or "memory" in str(failed)
        assert isinstance(listed, list)
        assert len(listed) == 4


def test_json_and_yaml_give_the_same_tools() -> None:
    as_json = json.dumps(
        yaml.load(ORDERS.replace("[NO, YES, 2024-01-01]", '["NO", "YES", "2024-01-01"]'), yaml.SafeLoader)
    )
    assert compile_document(as_json, []) == compile_document(ORDERS, [])
