"""Odd answers of a workspace: a call fails with the right status, and never succeeds by mistake."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied, Unavailable
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.records import MemoryKind
from services.memory.domain.searches import Query, Reranking, WordQuery
from services.memory.domain.vectors import unit_vector
from services.memory.rows.building import build_row
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.stores.databricks import transport
from services.memory.stores.databricks.endpoint_types import EndpointTypes, IndexShape, Location
from services.memory.stores.databricks.recent_writes import RecentWrites
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.transport import ClientLimits
from services.memory.stores.databricks.wire import wire_row
from tests.integration.memory.databricks_parts import (
    ENDPOINT,
    INDEX,
    KEY,
    OWNER,
    emulator,
    open_store,
    unified_records,
    workspace_client,
)
from tests.integration.memory.store_model import NOW
from tests.support.databricks_http import ApiFault

ATTEMPTS = 2
LIMITS = ClientLimits(
    attempts=ATTEMPTS,
    attempt_seconds=5,
    call_seconds=20,
    upsert_rows=200,
    upsert_bytes=4_000_000,
    delete_keys=1000,
    scan_rows=1000,
    response_bytes=1 << 16,
)
VECTOR = unit_vector([1, 0, 0])
Repository = DatabricksVectorIndexRepository


async def _scanned(repository: Repository) -> int:
    return sum([len(rows) async for rows, _ in repository.scan(INDEX, OWNER)])


CALLS: Mapping[str, Callable[[Repository], Awaitable[object]]] = {
    "describe index": lambda r: r.resources.describe_index(INDEX),
    "create index": lambda r: r.resources.create_index(INDEX, MemoryKind.UNIFIED, 3),
    "delete index": lambda r: r.resources.delete_index(INDEX),
    "list indexes": lambda r: r.resources.list_indexes(),
    "describe endpoint": lambda r: r.resources.describe_endpoint(),
    "create endpoint": lambda r: r.resources.create_endpoint(storage_optimized=False),
    "delete endpoint": lambda r: r.resources.delete_endpoint(),
    "list endpoints": lambda r: r.resources.list_endpoints(),
    "upsert": lambda r: r.upsert(INDEX, KEY, unified_records(2), "m"),
    "delete rows": lambda r: r.delete_records(INDEX, ["a"]),
    "search": lambda r: r.searches.similarity_search(INDEX, OWNER, VECTOR, EVERYTHING, 5, NOW, embeddings=False),
    "rerank": lambda r: r.searches.reranked(INDEX, OWNER, "text", ["content"], ["a"]),
    "count": lambda r: r.count_documents(INDEX, OWNER, EVERYTHING, NOW),
    "fetch": lambda r: r.fetch(INDEX, OWNER, ["a"], embeddings=True),
    "scan": _scanned,
    "survey": lambda r: r.probes.survey(INDEX, OWNER),
    "score": lambda r: r.probes.score(INDEX, OWNER, "a", VECTOR),
}
EMPTY_IS_AN_ANSWER = {"delete index", "delete endpoint", "list indexes", "list endpoints"}


@dataclass
class RawWorkspace:
    """Sends the same bytes to every request, and counts them."""

    url: str = ""
    seen: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def raw_workspace(answer: bytes, *, endless: bytes = b"") -> AsyncIterator[RawWorkspace]:
    """Serve `answer`, then `endless` until the caller hangs up, then close."""
    workspace = RawWorkspace()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            for line in head.lower().splitlines():
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.partition(b":")[2]))
            workspace.seen.append(head)
            writer.write(answer)
            while endless:
                writer.write(endless)
                await writer.drain()
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        workspace.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield workspace


def http(status: int, body: bytes | str = b"", *headers: str, length: int | None = None) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(data) if length is None else length}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + data


def error(status: int, code: object, message: str = "no", *headers: str) -> bytes:
    return http(status, json.dumps({"error_code": code, "message": message}), *headers)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_BACKOFF", Backoff(0.0001, 0.0002))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Repository]:
    types = EndpointTypes()
    types.learn(Location(url, ENDPOINT), storage_optimized=False)
    async with workspace_client(limits=LIMITS) as client:
        repository = DatabricksVectorIndexRepository(client, Location(url, ENDPOINT), types, RecentWrites(0))

        def learn() -> None:
            types.learn(Location(url, ENDPOINT), storage_optimized=False)
            types.learn_shape((url, INDEX), IndexShape(3))

        learn()
        repository.relearn = learn  # type: ignore[attr-defined]
        yield repository


async def outcomes(url: str, names: set[str]) -> dict[str, CoxswainError | None]:
    """What becomes of each call; anything but an error of ours fails the test."""
    found: dict[str, CoxswainError | None] = {}
    async with opened(url) as repository:
        for name, call in CALLS.items():
            if name not in names:
                continue
            repository.relearn()  # type: ignore[attr-defined]
            try:
                await call(repository)
            except CoxswainError as failure:
                found[name] = failure
            else:
                found[name] = None
    return found


HTML = "<html><title>Sign in</title></html>"
PAST = format_datetime(utc_now() - timedelta(days=1), usegmt=True)
DEEP = "[" * 60_000
UNTRUE: Mapping[str, tuple[bytes, set[str]]] = {
    "a page": (http(200, HTML, "Content-Type: text/html"), set()),
    "nothing": (http(200), set()),
    "an empty object": (http(200, "{}"), EMPTY_IS_AN_ANSWER | {"scan"}),
    "a list": (http(200, "[]"), set()),
    "null": (http(200, "null"), set()),
    "a text": (http(200, '"SUCCESS"'), set()),
    "half an object": (http(200, '{"manifest": {"columns": [{"na'), set()),
    "deep": (http(200, DEEP), set()),
    "not UTF-8": (http(200, b'{"name": "\xff\xfe'), set()),
    "a number of very many digits": (http(200, '{"row_count": ' + "9" * 6000 + "}"), set()),
    "wrong types": (
        http(
            200,
            '{"name": 1, "status": [], "result": 7, "manifest": "x", "data": 5, "vector_indexes": 3, "endpoints": "n"}',
        ),
        {"delete index", "delete endpoint"},
    ),
    "cut in its body": (http(200, '{"name": "x", ', length=500), set()),
    "cut in a chunk": (b'HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"name"', set()),
    "cut in its head": (b"HTTP/1.1 200 x\r\nContent-Le", set()),
    "no HTTP": (b"\x16\x03\x01 this is not HTTP\r\n\r\n", set()),
    "closed at once": (b"", set()),
    "packed and cut": (http(200, gzip.compress(b'{"name": "x"}' * 99)[:-20], "Content-Encoding: gzip"), set()),
    "packed as something else": (http(200, "{}", "Content-Encoding: br"), set()),
    "500": (http(500, HTML), set()),
    "502": (http(502, HTML), set()),
    "503": (http(503, HTML), set()),
    "504": (error(504, "DEADLINE_EXCEEDED"), set()),
    "500 that says nothing": (http(500), set()),
    "500 of odd types": (http(500, '{"error_code": {"a": 1}, "message": ["b"]}'), set()),
    "429": (error(429, "REQUEST_LIMIT_EXCEEDED"), set()),
    "429 of a proxy": (http(429, HTML), set()),
    "400 that is a 429": (error(400, "REQUEST_LIMIT_EXCEEDED"), set()),
    "retry at once": (error(503, "X", "no", "Retry-After: 0"), set()),
    "retry soon": (error(503, "X", "no", "Retry-After: 0.001"), set()),
    "retry since yesterday": (error(429, "X", "no", f"Retry-After: {PAST}"), set()),
    "retry in no words": (error(503, "X", "no", "Retry-After: later"), set()),
}


@pytest.mark.parametrize("name", UNTRUE)
async def test_what_is_no_answer_is_asked_again_and_then_unavailable(name: str) -> None:
    answer, but = UNTRUE[name]
    async with raw_workspace(answer) as workspace:
        found = await outcomes(workspace.url, set(CALLS) - but)
    assert found
    for call, failure in found.items():
        assert isinstance(failure, Unavailable), (call, failure)
        assert failure.reason == "STORE_FAILED", call
        assert failure.retry_after, call
        assert set(failure.metadata) == {"http_status", "error_code"}, call
        assert len(failure.message) < 1000
        assert len(failure.metadata["error_code"]) <= 64
    # The HTTP client itself repeats what can be repeated when a connection ends without an answer.
    sent, least = len(workspace.seen), ATTEMPTS * len(found)
    assert least <= sent <= 2 * least if "at once" in name or "head" in name else sent == least


@pytest.mark.parametrize("as_date", [False, True])
async def test_a_workspace_that_wants_to_be_left_alone_is(as_date: bool) -> None:
    value = format_datetime(utc_now() + timedelta(hours=1), usegmt=True) if as_date else "3600"
    async with raw_workspace(error(503, "BUSY", "no", f"Retry-After: {value}")) as workspace:
        found = await outcomes(workspace.url, {"search", "upsert", "describe index"})
    for failure in found.values():
        assert isinstance(failure, Unavailable)
        assert failure.retry_after is not None
        assert 3500 < failure.retry_after <= 3600
    assert len(workspace.seen) == len(found)


async def test_an_endless_answer_ends() -> None:
    head = b"HTTP/1.1 200 x\r\nContent-Type: application/json\r\n\r\n{"
    async with raw_workspace(head, endless=b" " * 4096) as workspace:
        found = await outcomes(workspace.url, {"search", "upsert", "describe index"})
    assert all(isinstance(failure, Unavailable) and failure.retry_after for failure in found.values())


LONG = "SECRETIVE_" * 2000


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (http(403, HTML), PermissionDenied),
        (error(403, "PERMISSION_DENIED"), PermissionDenied),
        (http(400, HTML), FailedPrecondition),
        (error(400, LONG, LONG), FailedPrecondition),
        (error(400, "A\ud800\u0000B", "half \ud800 a character"), FailedPrecondition),
        (error(418, 418), FailedPrecondition),
        (http(404, HTML), FailedPrecondition),
        (http(401, HTML), FailedPrecondition),
        (error(403, 403, "Invalid access token."), FailedPrecondition),
    ],
    ids=range(9),
)
async def test_a_refusal_is_told_in_a_few_words(answer: bytes, kind: type[CoxswainError]) -> None:
    async with raw_workspace(answer) as workspace:
        found = await outcomes(workspace.url, set(CALLS))
    for call, failure in found.items():
        assert isinstance(failure, kind), (call, failure)
        assert not isinstance(failure, Unavailable)
        # What is sent to callers is valid and fits in a header.
        assert len(failure.message.encode()) < 2000
        assert all(len(value.encode()) < 500 for value in failure.metadata.values())
        assert "dapi-x" not in failure.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_the_token_goes_nowhere_else(status: int) -> None:
    async with raw_workspace(http(200, "{}")) as elsewhere:
        answer = http(status, "", f"Location: {elsewhere.url}/api/2.0/vector-search/indexes")
        async with raw_workspace(answer) as workspace:
            found = await outcomes(workspace.url, set(CALLS))
    assert elsewhere.seen == []
    for call, failure in found.items():
        assert isinstance(failure, FailedPrecondition), call
        assert "workspace_url" in failure.message


# Answers of the right kind with something wrong in them

NAMES = DatabricksIndexSchemas.get_search_columns("unified")


def _cells(**changes: Any) -> list[Any]:
    row = json.loads(wire_row(build_row(KEY, unified_records(1)[0], "m")).text) | changes
    return [*[row.get(name) for name in NAMES], 1.0]


def _page(rows: Any, **changes: Any) -> dict[str, Any]:
    columns = [{"name": name} for name in NAMES]
    return {"manifest": {"columns": columns}, "result": {"data_array": rows, **changes}}


GOOD = _cells()
SPOILT_PAGES: Mapping[str, dict[str, Any]] = {
    "no manifest": {"result": {"data_array": [GOOD]}},
    "columns without names": _page([GOOD]) | {"manifest": {"columns": [{"title": name} for name in NAMES]}},
    "columns of odd types": _page([GOOD]) | {"manifest": {"columns": [1] * len(NAMES)}},
    "names of odd types": _page([GOOD]) | {"manifest": {"columns": [{"name": [name]} for name in NAMES]}},
    "a column twice": _page([GOOD])
    | {"manifest": {"columns": [{"name": "id" if name == "scope" else name} for name in NAMES]}},
    "rows that are shorter": _page([GOOD[:-2]]),
    "rows that are longer": _page([[*GOOD, 1, 2]]),
    "rows that are texts": _page(["x" * len(GOOD)]),
    "rows that are objects": _page([dict(enumerate(GOOD))]),
    "rows that are null": _page([None]),
    "an object of rows": _page({"0": GOOD}),
    "fewer rows than it counts": _page([GOOD], row_count=7),
    "rows it counts and does not have": _page(None, row_count=1),
    "a count that is none": _page([GOOD], row_count="many"),
    "an endless count": _page([GOOD], row_count=float("inf")),
    "a result that is a list": _page([GOOD]) | {"result": [GOOD]},
    "a token of an odd type": _page([GOOD]) | {"next_page_token": {"a": 1}},
    "a score that is not a number": _page([[*GOOD[:-1], float("nan")]]),
    "no score": _page([[*GOOD[:-1], None]]),
    "a score in words": _page([[*GOOD[:-1], "high"]]),
    "a score beyond all": _page([[*GOOD[:-1], 10**400]]),
    "a truth as score": _page([[*GOOD[:-1], True]]),
    "rows without scores": _page([GOOD[:-1]]),
}


@pytest.mark.parametrize("name", SPOILT_PAGES)
async def test_a_spoilt_page_of_a_search_is_asked_for_again_and_then_refused(name: str) -> None:
    async with raw_workspace(http(200, json.dumps(SPOILT_PAGES[name]))) as workspace:
        found = await outcomes(workspace.url, {"search"})
    failure = found["search"]
    assert isinstance(failure, Unavailable)
    assert failure.retry_after
    assert len(workspace.seen) == ATTEMPTS
    with emulator() as vectors:
        # Once is no harm.
        async with workspace_client(limits=LIMITS) as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, store._config.space, unified_records(1), NOW)
            vectors.fail(ApiFault(path="/query", status=200, body=json.dumps(SPOILT_PAGES[name])))
            assert len((await store.search(KEY, Query(VECTOR, 5, EVERYTHING), NOW)).results) == 1


ODD_CELLS: list[Any] = [None, 0, -1, True, 10**400, 1e308, float("nan"), "", "\ud800", "x\u0000y", "{", "[]", "{}"]
ODD_CELLS += [[], [1], {"a": []}]


@pytest.mark.parametrize("column", NAMES)
async def test_an_odd_cell_spoils_nothing_but_its_row(column: str) -> None:
    rows = [_cells(), *(_cells(**{"id": f"odd{n}"} | {column: cell}) for n, cell in enumerate(ODD_CELLS))]
    answer = http(200, json.dumps(_page(rows)))
    async with raw_workspace(answer) as workspace, workspace_client(limits=LIMITS) as client:
        store = open_store(client, workspace.url)
        repository = store._repository
        types = repository.queries.endpoint_types
        types.learn(Location(workspace.url, ENDPOINT), storage_optimized=False)
        types.learn_shape((workspace.url, INDEX), IndexShape(3))
        query = Query(VECTOR, 50, EVERYTHING)
        found = (await store.search(KEY, query, NOW)).results
        assert "r0" in {result.record.id for result in found}
        worded = await store.search_words(KEY, WordQuery([("text",)], 50, EVERYTHING), NOW)
        assert "r0" in {result.record.id for result in worded.results}
        page = await store.page(KEY, EVERYTHING, 1500, None, NOW, embeddings=False)
        assert "r0" in {record.id for record in page.records}
        assert (await store.count(KEY, Filter(scope_prefix="/"), NOW)).count
        assert await store.get(KEY, ["r0"], NOW, embeddings=False)
        assert await store.scope_rows(KEY, "/", NOW)
        assert await store.rerank(KEY, Reranking("text", ()), [KEY.stored_id("r0"), "other"])
        await repository.probes.survey(INDEX, OWNER)
        await repository.remove_expired(INDEX, OWNER, NOW)
        await repository.keys(INDEX, OWNER, EVERYTHING, NOW)
        portions = [part async for part in store.read_through(KEY, EVERYTHING, "", NOW, embeddings=False)]
        assert "r0" in {record.id for part in portions for _, record in part}


@pytest.mark.parametrize("score", [None, float("nan")])
async def test_a_row_that_cannot_be_compared_is_left_out_and_counted(score: float | None) -> None:
    rows = [_cells(), [*_cells(id="odd")[:-1], score], [*_cells(id="theirs", group_id="legal")[:-1], score]]
    async with raw_workspace(http(200, json.dumps(_page(rows)))) as workspace, workspace_client() as client:
        store = open_store(client, workspace.url)
        types = store._repository.queries.endpoint_types
        types.learn(Location(workspace.url, ENDPOINT), storage_optimized=False)
        types.learn_shape((workspace.url, INDEX), IndexShape(3))
        for min_score in (None, 0.5):
            found = await store.search(KEY, Query(VECTOR, 50, EVERYTHING, min_score=min_score), NOW)
            assert [result.record.id for result in found.results] == ["r0"]
            assert found.unreadable == 1


# Pages without end


def _with_token(page: Mapping[str, Any], token: str) -> dict[str, Any]:
    return {**page, "next_page_token": token}


@pytest.mark.parametrize(
    "tokens",
    [["a"], ["a", "b"], ["a", "b", "c"]],
)
@pytest.mark.parametrize("empty", [False, True])
async def test_pages_that_lead_in_a_circle_are_no_answer(tokens: list[str], empty: bool) -> None:
    page = _page([], row_count=0) if empty else _page([GOOD])
    with emulator() as vectors:
        vectors.fail(ApiFault(path="/query", status=200, body=json.dumps(_with_token(page, tokens[0])), times=1))
        for _ in range(4):
            for token in [*tokens[1:], tokens[0]]:
                body = json.dumps(_with_token(page, token))
                vectors.fail(ApiFault(path="query-next-page", status=200, body=body))
        for _ in range(3):
            for token in [*tokens, tokens[0]]:
                listed = {"vector_indexes": [{"name": token}], "next_page_token": token}
                vectors.fail(ApiFault(path="/indexes", method="GET", status=200, body=json.dumps(listed)))
        async with opened(vectors.url) as repository:
            for call in (
                lambda: repository.count_documents(INDEX, OWNER, EVERYTHING, NOW),
                repository.resources.list_indexes,
            ):
                with pytest.raises(Unavailable) as failure:
                    await call()
                assert failure.value.retry_after
        sent = len(vectors.requests(path="query"))
    assert sent <= len(tokens) + 2


async def test_pages_without_end_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.memory.stores.databricks.queries._MOST_PAGES", 6)
    monkeypatch.setattr("services.memory.stores.databricks.client._MAX_LIST_PAGES", 6)
    with emulator() as vectors:

        def answer(path: str, page: Mapping[str, Any]) -> None:
            vectors.clear_faults()
            for number in range(20):
                body = json.dumps(_with_token(page, f"{number}"))
                vectors.fail(ApiFault(path=path, status=200, body=body))

        answer("/query", _page([GOOD]))
        async with workspace_client(limits=LIMITS) as connected:
            # A search ends with as many as it wants.
            store = open_store(connected, vectors.url)
            assert len((await store.search(KEY, Query(VECTOR, 5, EVERYTHING), NOW)).results) == 5
        assert len(vectors.requests(path="/query")) <= 6
        async with opened(vectors.url) as repository:
            answer("/query", _page([], row_count=0))
            with pytest.raises(Unavailable):
                await repository.count_documents(INDEX, OWNER, EVERYTHING, NOW)
            for path, read in (
                ("/endpoints", repository.resources.list_endpoints),
                ("/indexes", repository.resources.list_indexes),
            ):
                answer(path, {})
                with pytest.raises(Unavailable) as failure:
                    await read()
                assert failure.value.retry_after


async def test_an_empty_page_in_the_middle_does_not_end_a_search() -> None:
    pages = [_with_token(_page([], row_count=0), "a"), _with_token(_page([GOOD]), "b"), _page([], row_count=0)]
    with emulator() as vectors:
        vectors.fail(ApiFault(path="/query", status=200, body=json.dumps(pages[0]), times=1))
        for page in pages[1:]:
            vectors.fail(ApiFault(path="query-next-page", status=200, body=json.dumps(page)))
        async with opened(vectors.url) as repository:
            assert (await repository.count_documents(INDEX, OWNER, EVERYTHING, NOW)).count == 1


@pytest.mark.parametrize("keys", [["a", "a"], ["a", "b", "a"], ["b", "a", "b"]])
async def test_a_scan_that_goes_in_a_circle_is_no_scan(keys: list[str]) -> None:
    row = {"fields": [{"key": "id", "value": {"string_value": "x"}}]}
    with emulator() as vectors:
        for key in keys * 3:
            body = json.dumps({"data": [row], "last_primary_key": key})
            vectors.fail(ApiFault(path="/scan", status=200, body=body))
        async with opened(vectors.url) as repository:
            with pytest.raises(Unavailable) as failure:
                await _scanned(repository)
            assert failure.value.retry_after


# Descriptions


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "main.other.index"},
        {"name": None},
        {"status": "ONLINE"},
        {"direct_access_index_spec": {"embedding_vector_columns": [{"embedding_dimension": 10**12}]}},
        {"direct_access_index_spec": {"embedding_vector_columns": [{"embedding_dimension": -3}]}},
        {"direct_access_index_spec": {"embedding_vector_columns": [{"embedding_dimension": float("nan")}]}},
        {"direct_access_index_spec": {"embedding_vector_columns": {"name": "x"}}},
        {"direct_access_index_spec": [1]},
        {"status": {"indexed_row_count": float("inf")}},
    ],
)
async def test_a_spoilt_description_is_no_description(changes: dict[str, Any]) -> None:
    spec = {"embedding_vector_columns": [{"name": "embedding", "embedding_dimension": 3}], "schema_json": "{}"}
    whole = {"name": INDEX, "endpoint_name": ENDPOINT, "direct_access_index_spec": spec, "status": {"ready": True}}
    async with raw_workspace(http(200, json.dumps(whole | changes))) as workspace:
        found = await outcomes(workspace.url, {"describe index"})
    failure = found["describe index"]
    assert isinstance(failure, Unavailable), failure
    assert failure.retry_after
    assert len(workspace.seen) == ATTEMPTS


async def test_what_a_description_says_in_odd_words_can_be_sent_on() -> None:
    spec = {
        "embedding_vector_columns": [{"name": "em\ud800bedding", "embedding_dimension": 3}],
        "schema_json": json.dumps({"id": {"odd": 1}, "b\ud800": "string"}),
    }
    status = {"detailed_state": "ON\ud800LINE", "message": "half \ud800", "indexed_row_count": "7"}
    whole = {"name": INDEX, "endpoint_name": "e\ud800", "direct_access_index_spec": spec, "status": status}
    async with raw_workspace(http(200, json.dumps(whole))) as workspace, opened(workspace.url) as repository:
        found = await repository.resources.describe_index(INDEX)
    for text in (found.endpoint, found.detailed_state, found.message, found.vector_column, *(found.columns or {})):
        text.encode()
    assert all(isinstance(kind, str) for kind in (found.columns or {}).values())
    assert found.row_count == 7


async def test_an_endpoint_of_a_type_that_is_not_known_is_asked_in_either_language() -> None:
    with emulator("STORAGE_OPTIMIZED") as vectors:
        async with workspace_client(limits=LIMITS) as client:
            store = open_store(client, vectors.url)
            for body in ('{"name": "shared"}', '{"name": "shared", "endpoint_type": "SOMETHING_NEW"}'):
                vectors.fail(ApiFault(path="/endpoints", method="GET", status=200, body=body))
                assert (await store.search(KEY, Query(VECTOR, 5, EVERYTHING), NOW)).results == []
                store._repository.queries.endpoint_types.forget(Location(vectors.url, ENDPOINT))
