"""Whatever is sent to an emulator gets an answer of the service it stands for, never a failure of its own."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.databricks_http import DatabricksError
from tests.support.databricks_identity import DatabricksIdentity
from tests.support.llm_emulator import LlmEmulator
from tests.support.vector_search_emulator import API, VectorSearchEmulator

INDEX = f"{API}/indexes/main.memory.rows"
SCHEMA = {"id": "string", "age": "int", "tags": "array<string>", "embedding": "array<float>"}

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_valid_chat: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
_valid_query: dict[str, Any] = {"columns": ["id"], "query_vector": [0.0, 1.0], "filters_json": '{"age": 3}'}
_valid_row: dict[str, Any] = {"id": "a", "age": 3, "tags": ["x"], "embedding": [0.0, 1.0]}


def _with_one_wrong(valid: dict[str, Any], *names: str) -> st.SearchStrategy[dict[str, Any]]:
    """`valid` with one of its fields, or of the other `names`, replaced by any JSON value."""
    fields = st.sampled_from([*valid, *names])
    return st.builds(lambda name, value: valid | {name: value}, fields, _json)


@pytest.fixture(scope="module")
def llm() -> Iterator[http.client.HTTPConnection]:
    with LlmEmulator(record=False) as running:
        yield http.client.HTTPConnection("127.0.0.1", running.port)


@pytest.fixture(scope="module")
def vectors() -> Iterator[http.client.HTTPConnection]:
    with VectorSearchEmulator(record=False) as running:
        running.add_endpoint("ep")
        running.add_index("main.memory.rows", "ep", SCHEMA, dimension=2)
        yield http.client.HTTPConnection("127.0.0.1", running.port)


@pytest.fixture(scope="module")
def identity() -> Iterator[DatabricksIdentity]:
    with DatabricksIdentity() as running:
        yield running


def answer(connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, str]:
    connection.request("POST", path, json.dumps(body), {"Authorization": "Bearer t"})
    response = connection.getresponse()
    return response.status, response.read().decode()


def refused_or_served(connection: http.client.HTTPConnection, path: str, body: Any) -> None:
    status, text = answer(connection, path, body)
    assert status in (200, 400, 501), text
    if status != 200:
        refusal = json.loads(text)
        assert refusal.get("message") or refusal["error"]["message"]


@settings(max_examples=150, deadline=None)
@given(
    _json
    | _with_one_wrong(
        _valid_chat, "tools", "tool_choice", "response_format", "stop", "max_tokens", "stream", "stream_options", "n"
    )
    | _with_one_wrong(_valid_chat["messages"][0], "tool_calls", "tool_call_id").map(
        lambda message: _valid_chat | {"messages": [message]}
    )
)
def test_no_chat_body_breaks_the_llm_emulator(llm: http.client.HTTPConnection, body: Any) -> None:
    refused_or_served(llm, "/v1/chat/completions", body)


_BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "anthropic": (
        "/anthropic/v1/messages",
        _valid_chat | {"max_tokens": 9, "system": "s", "tools": [], "thinking": {}},
    ),
    "gemini": (
        "/gemini/v1beta/models/gemini-3:generateContent",
        {"contents": [{"parts": [{"text": "x"}]}], "tools": [], "generationConfig": {}, "systemInstruction": {}},
    ),
    "ollama": ("/ollama/api/chat", _valid_chat | {"tools": [], "options": {}, "format": "json", "stream": False}),
    "azure": ("/azure/openai/deployments/d/chat/completions?api-version=1", _valid_chat),
    "vllm": ("/vllm/v1/chat/completions", _valid_chat),
    "openrouter": ("/openrouter/api/v1/chat/completions", _valid_chat),
}


@pytest.mark.parametrize("wire", _BODIES)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_body_breaks_a_wire(llm: http.client.HTTPConnection, wire: str, data: st.DataObject) -> None:
    path, valid = _BODIES[wire]
    body = data.draw(_json | _with_one_wrong(valid))
    key = {"Authorization": "Bearer t", "x-goog-api-key": "k", "anthropic-version": "1"}
    llm.request("POST", path, json.dumps(body), key)
    response = llm.getresponse()
    text = response.read().decode()
    assert response.status in (200, 400), text
    if response.status != 200:
        assert "rror" in text or "message" in text


@settings(max_examples=100, deadline=None)
@given(_json)
def test_no_schema_breaks_the_llm_emulator(llm: http.client.HTTPConnection, schema: Any) -> None:
    made = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "properties": schema}}}
    refused_or_served(llm, "/v1/chat/completions", _valid_chat | {"response_format": made})


def test_a_recursive_schema_is_answered_with_what_it_requires(llm: http.client.HTTPConnection) -> None:
    tree = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["name"],
    }
    made = {"type": "json_schema", "json_schema": {"name": "tree", "schema": tree}}
    status, text = answer(llm, "/v1/chat/completions", _valid_chat | {"response_format": made})
    assert status == 200
    assert "name" in json.loads(json.loads(text)["choices"][0]["message"]["content"])


@settings(max_examples=60, deadline=None)
@given(_json | _with_one_wrong({"model": "m", "input": "text"}, "dimensions", "encoding_format"))
def test_no_embedding_body_breaks_the_llm_emulator(llm: http.client.HTTPConnection, body: Any) -> None:
    refused_or_served(llm, "/v1/embeddings", body)


@settings(max_examples=150, deadline=None)
@given(
    _json
    | _with_one_wrong(_valid_query, "num_results", "query_text", "query_type", "score_threshold", "query_columns")
    | _json.map(lambda filters: _valid_query | {"filters_json": json.dumps(filters)})
)
def test_no_query_breaks_the_vector_search_emulator(vectors: http.client.HTTPConnection, body: Any) -> None:
    refused_or_served(vectors, f"{INDEX}/query", body)


@settings(max_examples=100, deadline=None)
@given(_json | _with_one_wrong(_valid_row, "other").map(lambda row: [row]))
def test_no_upsert_breaks_the_vector_search_emulator(vectors: http.client.HTTPConnection, rows: Any) -> None:
    refused_or_served(vectors, f"{INDEX}/upsert-data", {"inputs_json": json.dumps(rows)})


@settings(max_examples=60, deadline=None)
@given(_json | _with_one_wrong({"num_results": 5, "last_primary_key": "a"}))
def test_no_scan_breaks_the_vector_search_emulator(vectors: http.client.HTTPConnection, body: Any) -> None:
    refused_or_served(vectors, f"{INDEX}/scan", body)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.builds("{}.{}.{}".format, *[st.text("abcABC019-_=", max_size=20)] * 3))
def test_no_token_breaks_the_identity_emulator(identity: DatabricksIdentity, token: str) -> None:
    with pytest.raises(DatabricksError):
        identity.authenticate({"authorization": f"Bearer {token}"})


@settings(max_examples=100, deadline=None)
@given(_with_one_wrong({"sub": "ann", "exp": 9_999_999_999, "aud": "a", "iss": "i", "scope": "s"}, "nbf", "iat"))
def test_no_claims_break_the_identity_emulator(identity: DatabricksIdentity, claims: dict[str, Any]) -> None:
    token = identity.mint(identity.add_user("ann"), claims=claims)
    with pytest.raises(DatabricksError):
        identity.authenticate({"authorization": f"Bearer {token}"})
