"""HTTP operations: what goes out, where it can go, and what each end of a request means for the call."""

import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.common.egress import AddressPolicy
from services.common.errors import InvalidArgument
from services.common.storable import storable_json
from services.orchestrator.domain.tool_source import HttpApi, HttpOperation, SourceKind, ToolSourceSpec
from services.orchestrator.http_operations import check_http_api
from services.orchestrator.tool_gateway.adapters.http import HttpAdapter, build_call
from services.orchestrator.tool_gateway.adapters.http_templates import BadArgument, fill_body, fill_path, fill_query
from services.orchestrator.tool_gateway.http_bodies import BadBody, at_pointer, parse_json
from services.orchestrator.tool_gateway.http_statuses import parse_retry_after
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown, ToolResult
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

ANY = {"type": "object", "properties": {"id": {}, "q": {}, "n": {}}}


def operation(method: str = "GET", path: str = "/items/{id}", **changes: Any) -> HttpOperation:
    return HttpOperation(
        **{"name": "op", "description": "", "method": method, "path": path, "arguments_schema": ANY} | changes
    )


def source_of(url: str, *operations: HttpOperation, headers: dict[str, str] | None = None) -> ToolSourceSpec:
    return ToolSourceSpec("shop", SourceKind.HTTP, HttpApi(url, operations), headers=headers or {})


@pytest.fixture
async def api() -> AsyncIterator[RecordingApi]:
    async with RecordingApi() as served:
        yield served


async def called(
    api: RecordingApi,
    one: HttpOperation,
    arguments: dict[str, Any] | None = None,
    *,
    idempotent: bool = False,
    progress: RecordedProgress | None = None,
    base: str = "",
    max_bytes: int = 1024 * 1024,
    call_id: str = "call-1",
) -> ToolResult:
    url = api.url + base
    async with egress_of() as egress:
        adapter = HttpAdapter(egress, FixedCredentials(api.url), max_result_bytes=max_bytes)
        request = call_of("op", arguments, source=source_of(url, one), idempotent=idempotent, call_id=call_id)
        return await adapter.call(request, progress or RecordedProgress())


# What goes out


async def test_arguments_fill_path_query_and_body(api: RecordingApi) -> None:
    one = operation(
        "POST",
        "/v1/items/{id}",
        query={"q": "{q}", "fixed": "a&b", "mixed": "x-{q}"},
        body={"count": "{n}", "note": "id={id}", "list": ["{n}", "{gone}"], "kept": None, "left": "{gone}"},
        idempotency_header="Idempotency-Key",
    )
    arguments: dict[str, Any] = {"id": "a/b c", "q": "x=1&y,+%2Cü#", "n": {"deep": [1e16, None, {}]}}
    progress = RecordedProgress()
    result = await called(api, one, arguments, progress=progress, base="/base/")
    (sent,) = api.requests
    assert sent.method == "POST"
    assert sent.target.startswith("/base/v1/items/a%2Fb%20c?")
    assert sent.query == [("q", "x=1&y,+%2Cü#"), ("fixed", "a&b"), ("mixed", "x-x=1&y,+%2Cü#")]
    body: dict[str, Any] = {
        "count": {"deep": [1e16, None, {}]},
        "note": "id=a/b c",
        "list": [{"deep": [1e16, None, {}]}],
        "kept": None,
    }
    assert json.loads(sent.body) == body
    assert sent.header("idempotency-key") == ["call-1"]
    assert sent.header("x-request-id") == ["call-1"]
    assert sent.header("authorization") == [f"Bearer {TOKEN}"]
    assert progress.sends == 1
    assert result.structured["method"] == "POST"


async def test_a_source_may_name_its_requests_itself(api: RecordingApi) -> None:
    async with egress_of() as egress:
        adapter = HttpAdapter(egress, FixedCredentials(api.url), max_result_bytes=1024)
        spec = source_of(api.url, operation("GET", "/items"), headers={"x-request-id": "ours"})
        await adapter.call(call_of("op", source=spec), RecordedProgress())
    assert api.requests[0].header("x-request-id") == ["ours"]


@pytest.mark.parametrize(
    "value", ["..", "../..", "a/../b", "..\\x", "/..", ".", " .. ", "a\r\nHost: x", "\x00", "", None, ["x"]]
)
async def test_no_argument_leaves_its_path_segment(api: RecordingApi, value: object) -> None:
    result = await called(api, operation(), {"id": value})
    assert result.is_error
    assert "id" in result.text
    assert api.requests == []


@given(st.text(max_size=40))
@example("%2e%2e%2f")
@example("a?b#c;d=e&f@g:h//i")
def test_a_path_value_arrives_exactly_or_not_at_all(value: str) -> None:
    try:
        filled = fill_path("/items/{id}/end", {"id": value})
    except BadArgument:
        return
    parts = urlsplit(f"https://example.com{filled}")
    assert parts.netloc == "example.com"
    assert not parts.query
    assert not parts.fragment
    segments = parts.path.split("/")
    assert segments[:2] == ["", "items"]
    assert segments[3:] == ["end"]
    assert unquote(segments[2], errors="strict") == value


@given(st.dictionaries(st.sampled_from(["a", "b[c]", "d&e"]), st.text(st.characters(exclude_categories=["Cs"]))))
def test_query_values_stay_values(values: dict[str, str]) -> None:
    names = {name: f"arg{number}" for number, name in enumerate(values)}
    query = fill_query(
        {name: f"{{{names[name]}}}" for name in values}, {names[name]: value for name, value in values.items()}
    )
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    assert {unquote(name): unquote(value) for name, _, value in pairs} == values


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_a_whole_placeholder_becomes_the_argument_itself(value: Any) -> None:
    assert fill_body({"x": ["{a}"]}, {"a": value}) == {"x": [value]}


def test_what_arguments_hold_is_no_template() -> None:
    assert fill_body({"x": "-{a}-"}, {"a": "{b}", "b": "no"}) == {"x": "-{b}-"}
    assert fill_path("/{a}", {"a": "{b}", "b": "no"}) == "/%7Bb%7D"


@pytest.mark.parametrize("change", ["base", "method", "path", "query", "body", "pointer", "key"])
async def test_an_operation_that_is_sent_otherwise_is_another_tool(api: RecordingApi, change: str) -> None:
    one = operation("PUT", query={"q": "{q}"}, body={"n": "{n}"}, result_pointer="/method", idempotency_header="X-Key")
    changed = {
        "base": source_of(f"{api.url}/other", one),
        "method": source_of(api.url, replace(one, method="PATCH")),
        "path": source_of(api.url, replace(one, path="/items/{id}/gone")),
        "query": source_of(api.url, replace(one, query={"all": "{q}"})),
        "body": source_of(api.url, replace(one, body={"m": "{n}"})),
        "pointer": source_of(api.url, replace(one, result_pointer="/path")),
        "key": source_of(api.url, replace(one, idempotency_header="X-Id")),
    }[change]
    async with egress_of() as egress:
        adapter = HttpAdapter(egress, FixedCredentials(api.url))
        (listed,) = await adapter.list_tools(source_of(api.url, one), principal_of())
        request = replace(call_of("op", {"id": "1"}, source=changed), tool_hash=listed_hash(listed))
        with pytest.raises(CallRefused) as refused:
            await adapter.call(request, RecordedProgress())
        assert refused.value.reason == "TOOL_CHANGED"
        assert api.requests == []
        await adapter.call(replace(request, source=source_of(api.url, one)), RecordedProgress())
    assert len(api.requests) == 1


async def test_the_source_fixes_the_origin_whatever_the_arguments(api: RecordingApi) -> None:
    one = operation(path="/{id}")
    for value in ["@evil.example", "\\\\evil.example", "//evil.example/x", "http://evil.example", ":80@evil.example"]:
        call = build_call(source_of(api.url), HttpApi(api.url, (one,)), one, {"id": value}, "c")
        assert call.url.startswith(f"{api.url}/")
        assert quote(value, safe="") in call.url
    bad = source_of("https://user:secret@example.com", one)
    assert [fault.field for fault in check_http_api(bad.endpoint)] == ["spec.http.base_url"]  # type: ignore[arg-type]


async def test_addresses_inside_are_not_for_groups() -> None:
    async with RecordingApi() as api, egress_of(AddressPolicy(setting="ALLOWED")) as egress:
        for url in (api.url, api.url.replace("127.0.0.1", "localhost"), f"https://[::ffff:127.0.0.1]:{api.port}"):
            adapter = HttpAdapter(egress, FixedCredentials(url))
            with pytest.raises(CallRefused) as refused:
                await adapter.call(call_of("op", {"id": "1"}, source=source_of(url, operation())), RecordedProgress())
            assert refused.value.reason == "DESTINATION_NOT_ALLOWED"
        assert api.requests == []


async def test_faulty_operations_are_named_by_field() -> None:
    faulty = (
        operation(name="a", method="BREW"),
        operation(name="a", path="items"),
        operation(name="c", path="/x/../y"),
        operation(name="d", path="/x?y={id}"),
        operation(name="e", path="/{missing}"),
        operation(name="f", body={"x": 1}),
        operation(name="g", result_pointer="items"),
        operation(name="h", method="POST", idempotency_header="Bad Header"),
    )
    async with egress_of() as egress:
        adapter = HttpAdapter(egress, FixedCredentials(""))
        with pytest.raises(InvalidArgument) as refused:
            await adapter.list_tools(source_of("https://example.com", *faulty), principal_of())
        fields = [violation.field.partition("operations")[2] for violation in refused.value.violations]
        assert fields == [
            "[0].method", "[1].name", "[1].path", "[2].path", "[3].path", "[4].arguments_schema", "[5].body",
            "[6].result_pointer", "[7].idempotency_header",
        ]  # fmt: skip
        good = source_of(
            "https://example.com",
            operation(name="read"),
            operation("POST", name="write"),
            operation("POST", name="keyed", idempotency_header="Key"),
            operation("DELETE", name="delete"),
        )
        hints = {tool.name: tool.idempotent_hint for tool in await adapter.list_tools(good, principal_of())}
        assert hints == {"read": True, "write": False, "keyed": True, "delete": None}


# What comes back


async def test_a_pointer_selects_the_result(api: RecordingApi) -> None:
    api.answer("/items/1", '{"data": {"a/b": [10, {"~x": "found"}]}}')
    result = await called(api, operation(result_pointer="/data/a~1b/1/~0x"), {"id": 1})
    assert (result.text, result.structured) == ("found", "found")
    with pytest.raises(OutcomeUnknown, match="nothing at /data/none"):
        await called(api, operation(result_pointer="/data/none"), {"id": 1})


@pytest.mark.parametrize(
    ("status", "failure", "reason"),
    [
        (401, CallRefused, "UPSTREAM_CREDENTIAL_REJECTED"),
        (403, CallRefused, "UPSTREAM_CREDENTIAL_REJECTED"),
        (425, NotSent, "TOOL_RATE_LIMITED"),
        (429, NotSent, "TOOL_RATE_LIMITED"),
        (408, OutcomeUnknown, ""),
        (499, OutcomeUnknown, ""),
        (500, OutcomeUnknown, ""),
        (502, OutcomeUnknown, ""),
        (503, OutcomeUnknown, ""),
        (504, OutcomeUnknown, ""),
    ],
)
async def test_what_a_status_means_for_a_call_that_must_not_run_twice(
    api: RecordingApi, status: int, failure: type[Exception], reason: str
) -> None:
    api.answer("/items/1", '{"detail": "so it is"}', status=status, Retry_After="7")
    with pytest.raises(failure, match="so it is") as raised:
        await called(api, operation("POST"), {"id": 1})
    assert getattr(raised.value, "reason", "") == reason
    if failure is NotSent:
        assert getattr(raised.value, "retry_after", None) == 7
    assert len(api.requests) == 1


async def test_a_busy_server_may_be_asked_again_only_for_what_may_run_twice(api: RecordingApi) -> None:
    api.answer("/items/1", "{}", status=503, Retry_After="120")
    with pytest.raises(NotSent) as raised:
        await called(api, operation(), {"id": 1}, idempotent=True)
    assert raised.value.retry_after == 120


async def test_a_declined_request_is_told_to_the_model_without_the_credential(api: RecordingApi) -> None:
    echoed = json.dumps({"error": "bad", "you": f"Bearer {TOKEN}", "long": "x" * 10_000})
    api.answer("/items/1", echoed, status=422)
    result = await called(api, operation("POST"), {"id": 1})
    assert result.is_error
    assert result.text.startswith('HTTP 422: {"error": "bad", "you": "[secret]"')
    assert len(result.text) < 4200
    api.answer("/items/2", json.dumps({"seen": TOKEN, "header": quote(f"Bearer {TOKEN}")}))
    shown = await called(api, operation(), {"id": 2})
    assert TOKEN not in shown.text
    assert TOKEN not in repr(shown.structured)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_lost_answer_leaves_the_outcome_open_and_nothing_is_sent_twice(api: RecordingApi, method: str) -> None:
    api.drop("/items/1")
    with pytest.raises(OutcomeUnknown):
        await called(api, operation(method), {"id": 1})
    assert [sent.method for sent in api.requests] == [method]


async def test_a_refused_connection_has_sent_nothing(api: RecordingApi) -> None:
    progress = RecordedProgress()
    await api.stop()
    api.served_at(f"http://127.0.0.1:{api.port}")
    with pytest.raises(NotSent):
        await called(api, operation("POST"), {"id": 1}, progress=progress)
    assert progress.sends == 0
    source = source_of("http://no-such-name.invalid", operation("POST"))
    async with egress_of() as egress:
        adapter = HttpAdapter(egress, FixedCredentials("http://no-such-name.invalid"))
        # As names inside are: who writes a source learns of none whether it is there.
        with pytest.raises(CallRefused, match="may not be called from here"):
            await adapter.call(call_of("op", {"id": 1}, source=source), progress)
    assert progress.sends == 0


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        ("<html>login</html>", ""),
        ("[" * 50_000 + "]" * 50_000, ""),
        ('{"a": NaN}', ""),
        ('{"a": 1', ""),
        (b"\x00\xff\xfe", ""),
        ("packed", "gzip"),
        ("packed", "br"),
    ],
)
async def test_an_answer_that_is_not_what_it_says_leaves_the_outcome_open(
    api: RecordingApi, body: str | bytes, encoding: str
) -> None:
    api.answer("/items/1", body, Content_Encoding=encoding or "identity")
    with pytest.raises(OutcomeUnknown):
        await called(api, operation("POST"), {"id": 1})


async def test_a_huge_answer_is_not_read_and_not_called_a_failure(api: RecordingApi) -> None:
    api.answer("/items/1", gzip.compress(b"[" + b"0," * 2_000_000 + b"0]"), Content_Encoding="gzip")
    result = await called(api, operation("POST"), {"id": 1}, max_bytes=100_000)
    assert result.is_error
    assert "was made" in result.text
    assert "100000 bytes" in result.text


async def test_texts_and_files(api: RecordingApi) -> None:
    api.answer("/items/1", b"gr\xfc\xdfe\x00", Content_Type="text/plain; charset=iso-8859-1")
    assert (await called(api, operation(), {"id": 1})).text == "grüße\ufffd"
    api.answer("/items/2", b"%PDF-1.7", Content_Type="application/pdf")
    (file,) = (await called(api, operation(), {"id": 2})).files
    assert (file.name, file.media_type, file.content) == ("op.pdf", "application/pdf", b"%PDF-1.7")
    api.answer("/items/3", status=204)
    assert (await called(api, operation("DELETE"), {"id": 3})).text == "HTTP 204, without content"
    api.answer("/items/4", r'{"a": "\u0000\ud800b"}')
    assert (await called(api, operation(), {"id": 4})).structured == {"a": "\ufffd\ufffdb"}


# Redirects


async def test_reading_follows_redirects_on_its_origin(api: RecordingApi) -> None:
    api.answer("/items/1", status=302, Location="/items/2?x=1")
    api.answer("/items/2", status=307, Location=f"{api.url}/items/3")
    result = await called(api, operation(), {"id": 1})
    assert result.structured["path"] == "/items/3"
    assert [sent.header("authorization") for sent in api.requests] == [[f"Bearer {TOKEN}"]] * 3
    api.answer("/items/3", status=302, Location="/items/4")
    api.answer("/items/4", status=302, Location="/items/5")
    assert (await called(api, operation(), {"id": 1})).is_error


@pytest.mark.parametrize(
    "location", ["http://127.0.0.2:{port}/x", "//evil.example/x", "https://127.0.0.1:{port}/x", "\\\\evil.example"]
)
async def test_no_redirect_leaves_the_origin(api: RecordingApi, location: str) -> None:
    api.answer("/items/1", status=302, Location=location.format(port=api.port))
    result = await called(api, operation(), {"id": 1})
    assert result.is_error or result.structured["path"].startswith("/items/")
    assert all(sent.header("host") == [f"127.0.0.1:{api.port}"] for sent in api.requests)
    with pytest.raises(OutcomeUnknown):
        await called(api, operation("POST"), {"id": 1})


async def test_after_a_form_the_page_is_read_and_not_sent_again(api: RecordingApi) -> None:
    api.answer("/items/1", status=303, Location="/receipts/9")
    result = await called(api, operation("POST", body={"pay": "{n}"}), {"id": 1, "n": 5})
    assert result.structured == {"method": "GET", "path": "/receipts/9", "body": ""}
    assert [(sent.method, sent.body) for sent in api.requests] == [("POST", b'{"pay":5}'), ("GET", b"")]
    api.answer("/receipts/9", "{}", status=404)
    with pytest.raises(OutcomeUnknown):
        await called(api, operation("POST", body={"pay": "{n}"}), {"id": 1, "n": 5})
    api.requests.clear()
    api.answer("/items/1", status=308, Location="/items/2")
    assert (await called(api, operation("POST"), {"id": 1})).is_error
    assert len(api.requests) == 1


async def test_nothing_is_resumed() -> None:
    async with egress_of() as egress:
        with pytest.raises(OutcomeUnknown):
            await HttpAdapter(egress, FixedCredentials("")).resume(call_of("op"), "", RecordedProgress())


# Pieces


@given(JSON)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert parse_json(json.dumps(value)) == storable_json(value)


@pytest.mark.parametrize("pointer", ["/01", "/-1", "/x", "/0/0", "/99999999999"])
def test_pointers_that_lead_nowhere(pointer: str) -> None:
    with pytest.raises(BadBody):
        at_pointer([1], pointer)


@pytest.mark.parametrize("text", ['"' + '\\"' * 200_000, '"' + '\\"' * 200_000 + "\\", "[" * 300])
def test_hostile_json_takes_no_time(text: str) -> None:
    with pytest.raises(BadBody):
        parse_json(text)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("12", 12),
        ("999999999999", 3600),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds
