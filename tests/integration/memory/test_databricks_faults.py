"""The Databricks repository and store against a workspace that is hostile, broken, slow, or behind its writes."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.common.clock import utc_now
from services.common.errors import (
    Aborted,
    CoxswainError,
    FailedPrecondition,
    PermissionDenied,
    Unavailable,
)
from services.common.grpc.call import Call, enter_call
from services.memory.domain.filters import EVERYTHING, Comparison, Condition, Filter
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.searches import Query, Ranking
from services.memory.domain.vectors import unit_vector
from services.memory.rows.building import build_row
from services.memory.rows.columns import Column, DatabricksIndexSchemas
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.emptying import empty_index
from services.memory.stores.databricks.queries import MAX_RESULTS
from services.memory.stores.databricks.store import DatabricksMemoryStore
from services.memory.stores.databricks.transport import ClientLimits, Transport
from services.memory.stores.databricks.wire import encode_vector, wire_row
from tests.integration.memory.databricks_parts import (
    INDEX,
    KEY,
    LIMITS,
    OWNER,
    FixedCredentials,
    emulator,
    open_repository,
    open_store,
    unified_records,
    workspace_client,
)
from tests.integration.memory.store_model import NOW, SPACE
from tests.support import vector_search_emulator
from tests.support.databricks_http import ApiFault, Caller

VECTOR = unit_vector([1, 0, 0])
QUERY = Query(VECTOR, 5, EVERYTHING)
HURRIED = ClientLimits(
    attempts=1,
    attempt_seconds=0.3,
    call_seconds=5,
    upsert_rows=200,
    upsert_bytes=4_000_000,
    delete_keys=1000,
    scan_rows=1000,
    response_bytes=1 << 20,
)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _server(serve: Serve) -> AsyncIterator[str]:
    """Serve one connection after another by hand."""
    tasks = set[asyncio.Task[None]]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _trickled_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("serve", [_trickle, _silent, _trickled_headers])
async def test_a_workspace_that_never_finishes_its_answer_is_given_up(serve: Serve) -> None:
    async with _server(serve) as url, workspace_client(limits=HURRIED) as client, asyncio.timeout(60):
        with pytest.raises(Unavailable) as failure:
            await open_repository(client, url).resources.describe_index(INDEX)
    assert failure.value.reason == "STORE_FAILED"
    assert "does not answer" in failure.value.message


async def test_a_workspace_that_never_takes_a_connection_is_given_up() -> None:
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # What waits to be accepted fills the queue; further connections get no answer.
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        limits = replace(HURRIED, attempt_seconds=60)
        async with workspace_client(limits=limits, connect_seconds=0.2) as client, asyncio.timeout(60):
            with pytest.raises(Unavailable):
                await open_repository(client, url).resources.describe_index(INDEX)


async def test_an_answer_without_end_is_cut_off_and_its_connection_closed() -> None:
    gone = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                await writer.drain()
        finally:
            gone.set()

    # It is cut off by its size; a busy machine may need its time for that.
    limits = replace(HURRIED, attempt_seconds=60, call_seconds=60)
    async with _server(endless) as url, workspace_client() as client, asyncio.timeout(60):
        small = VectorSearchClient(Transport(client._transport._http, FixedCredentials("dapi-x"), limits), limits)
        with pytest.raises(Unavailable, match="not its interface"):
            await open_repository(small, url).resources.describe_index(INDEX)
        await gone.wait()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (ApiFault(status=302, body="<html>sign in</html>", times=None), "workspace_url"),
        (ApiFault(status=404, body="<html>no such page</html>", times=None), "workspace_url"),
        (ApiFault(status=200, body="<html>hello</html>", times=None), "not its interface"),
        (ApiFault(status=200, body="[" * 200_000, times=None), "not its interface"),
        (
            ApiFault(status=200, body="\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), times=None),
            "not its",
        ),
    ],
)
async def test_what_is_no_workspace_is_told_so_and_never_taken_for_something_missing(
    fault: ApiFault, told: str
) -> None:
    with emulator() as vectors:
        vectors.fail(fault)
        async with workspace_client() as client:
            repository = open_repository(client, vectors.url)
            for call in (
                repository.resources.describe_index(INDEX),
                repository.resources.describe_endpoint(),
                repository.resources.delete_index(INDEX),
                repository.resources.create_index(INDEX, MemoryKind.UNIFIED, 3),
                repository.resources.list_indexes(),
            ):
                with pytest.raises(CoxswainError, match=told):
                    await call


ROW_NAMES = DatabricksIndexSchemas.get_search_columns("unified")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "manifest",
                    "columns",
                    "name",
                    "result",
                    "dataArray",
                    "data_array",
                    "status",
                    "failed_primary_keys",
                    "success_row_count",
                    "data",
                    "fields",
                    "key",
                    "value",
                    "list_value",
                    "values",
                    "next_page_token",
                    "vector_indexes",
                    "direct_access_index_spec",
                    "schema_json",
                    "embedding_vector_columns",
                    "embedding_dimension",
                    "endpoint_status",
                    "num_indexes",
                    "error_code",
                    "message",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from([200, 200, 400, 500]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_document_comes_back_a_call_succeeds_or_fails_with_a_status(document: Any, status: int) -> None:
    async def scenario() -> None:
        with emulator() as vectors:
            vectors.fail(ApiFault(status=status, body=json.dumps(document), times=None))
            async with workspace_client(limits=HURRIED) as client:
                repository = open_repository(client, vectors.url)

                async def scan() -> None:
                    async for _ in repository.scan(INDEX, OWNER):
                        return

                calls: list[Callable[[], Awaitable[object]]] = [
                    lambda: open_store(client, vectors.url).search(KEY, QUERY, NOW),
                    lambda: repository.delete_records(INDEX, ["a"]),
                    repository.resources.list_indexes,
                    repository.resources.list_endpoints,
                    lambda: repository.resources.describe_index(INDEX),
                    repository.resources.describe_endpoint,
                    lambda: repository.resources.create_index(INDEX, MemoryKind.UNIFIED, 3),
                    scan,
                ]
                for call in calls:
                    with contextlib.suppress(CoxswainError):
                        await call()
                try:
                    await repository.upsert(INDEX, KEY, unified_records(2), "m")
                except CoxswainError:
                    return
                # Only the word for it is a success.
                assert status == 200
                assert document["status"] == "SUCCESS"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        ({"status": "PARTIAL_SUCCESS", "result": {"failed_primary_keys": ["{r1}"]}}, ["r1"]),
        ({"status": "PARTIAL_SUCCESS", "result": {"failedPrimaryKeys": ["{r1}"], "successRowCount": "2"}}, ["r1"]),
        ({"status": "PARTIAL_SUCCESS", "result": {"success_row_count": 1}}, ["r0", "r1", "r2"]),
        ({"status": "PARTIAL_SUCCESS", "result": {"success_row_count": 1, "failed_primary_keys": ["{r1}"]}}, "all"),
        ({"status": "SUCCESS", "result": {"success_row_count": 1}}, "all"),
        ({"status": "SUCCESS", "result": {"success_row_count": 2, "failed_primary_keys": ["{r2}"]}}, ["r2"]),
        ({"status": "FAILURE"}, "all"),
        ({"status": "FAILURE", "result": {"failed_primary_keys": []}}, "all"),
    ],
)
async def test_nothing_is_acknowledged_that_the_workspace_did_not_say_is_written(answer: Any, failed: Any) -> None:
    text = json.dumps(answer)
    for name in ("r0", "r1", "r2"):
        text = text.replace(f"{{{name}}}", KEY.stored_id(name))
    with emulator() as vectors:
        vectors.fail(ApiFault(path="upsert-data", status=200, body=text))
        async with workspace_client() as client:
            with pytest.raises(Aborted) as failure:
                await open_store(client, vectors.url).save(KEY, SPACE, unified_records(3), NOW)
    expected = ["r0", "r1", "r2"] if failed == "all" else failed
    assert json.loads(failure.value.metadata["failed_ids"]) == expected
    assert failure.value.metadata["failed_count"] == str(len(expected))


@pytest.mark.parametrize("answer", ["{}", '{"status": "ACCEPTED"}', '{"status": "SUCCESS", "result": 3}'])
async def test_an_answer_that_does_not_say_what_was_written_is_no_success(answer: str) -> None:
    with emulator() as vectors:
        for path in ("upsert-data", "delete-data"):
            vectors.fail(ApiFault(path=path, status=200, body=answer, times=None))
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            with pytest.raises(Unavailable):
                await store.save(KEY, SPACE, unified_records(1), NOW)
            with pytest.raises(Unavailable):
                await store.delete(KEY, ["r0"], None, NOW)


def _answer(columns: list[str], rows: list[list[Any]]) -> str:
    return json.dumps({"manifest": {"columns": [{"name": name} for name in columns]}, "result": {"data_array": rows}})


def _row(columns: list[str]) -> list[Any]:
    row = json.loads(wire_row(build_row(KEY, unified_records(1)[0], "m")).text)
    return [row.get(name) for name in columns]


@pytest.mark.parametrize("name_score", [True, False])
async def test_rows_are_read_by_the_names_of_their_columns_in_whatever_order_they_come(name_score: bool) -> None:
    columns = ["of_a_later_version", *reversed(ROW_NAMES)]
    with emulator() as vectors:
        named = [*columns, "score"] if name_score else columns
        vectors.fail(ApiFault(path="/query", status=200, body=_answer(named, [[*_row(columns), 1.0]])))
        async with workspace_client() as client:
            found = await open_store(client, vectors.url).search(KEY, QUERY, NOW)
    (result,) = found.results
    assert (result.record.id, result.record.body, result.similarity) == ("r0", Unified("text 0"), 1.0)


@pytest.mark.parametrize("missing", ["id", "group_id", "crew_id", "content", "embedding_model", "version"])
async def test_rows_that_come_without_a_column_are_refused_by_its_name(missing: str) -> None:
    columns = [name for name in ROW_NAMES if name != missing]
    with emulator() as vectors:
        vectors.fail(ApiFault(path="/query", status=200, body=_answer(columns, [[*_row(columns), 1.0]]), times=None))
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            for call in (store.search(KEY, QUERY, NOW), store.page(KEY, EVERYTHING, 5, None, NOW, embeddings=False)):
                with pytest.raises(FailedPrecondition, match=missing) as failure:
                    await call
                assert failure.value.reason == "INDEX_NOT_READY"


@pytest.mark.parametrize("score", [None, "high", 0, -1, 1.5, float("nan"), True])
async def test_a_score_that_is_none_is_refused(score: Any) -> None:
    with emulator() as vectors:
        vectors.fail(
            ApiFault(path="/query", status=200, body=_answer(ROW_NAMES, [[*_row(ROW_NAMES), score]]), times=None)
        )
        async with workspace_client() as client:
            with pytest.raises(Unavailable):
                await open_store(client, vectors.url).search(KEY, QUERY, NOW)


async def _retried_after(value: str, *, deadline: float | None = None) -> tuple[int, float | None]:
    """Return how often a query was sent whose first answer is 503 with this Retry-After, and what the failure said."""
    with emulator() as vectors:
        vectors.fail(ApiFault(path="/query", status=503, retry_after=value))
        async with workspace_client() as client:
            if deadline is not None:
                at = asyncio.get_running_loop().time() + deadline
                enter_call(Call(request_id="test", method="/test", deadline=at))
            failure: CoxswainError | None = None
            try:
                await open_store(client, vectors.url).search(KEY, QUERY, NOW)
            except Unavailable as error:
                failure = error
        return len(vectors.requests(path="/query")), failure.retry_after if failure else None


async def test_retry_after_is_read_in_seconds_and_as_a_date() -> None:
    past = format_datetime(utc_now() - timedelta(hours=1), usegmt=True)
    soon = format_datetime(utc_now() + timedelta(seconds=1), usegmt=True)
    later = format_datetime(utc_now() + timedelta(hours=1), usegmt=True)
    without_zone = format_datetime((utc_now() + timedelta(hours=1)).replace(tzinfo=None))
    for value in ("0", "0.3", "1", "1.", past, soon):
        assert await _retried_after(value, deadline=300) == (2, None), value
    for value in ("3600", later, without_zone):
        sent, told = await _retried_after(value, deadline=300)
        assert sent == 1, value
        assert told is not None
        assert 3500 < told <= 3600, value


@pytest.mark.parametrize("value", ["soon", "-5", "1.5.0", "1e3", "\u00b2", "", "0x10", "Wed, 99 Nov 2026 00:00:00 GMT"])
async def test_advice_that_cannot_be_read_is_passed_over(value: str) -> None:
    assert await _retried_after(value, deadline=300) == (2, None)


@pytest.mark.parametrize("value", ["9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_advice_beyond_all_measure_is_told_as_a_day(value: str) -> None:
    assert await _retried_after(value, deadline=300) == (1, 86_400.0)


async def test_a_token_that_became_stale_is_replaced_even_where_nothing_else_is_tried_again() -> None:
    once = ClientLimits(**{name: getattr(LIMITS, name) for name in LIMITS.__slots__} | {"attempts": 1})
    with emulator() as vectors:
        async with workspace_client(FixedCredentials("old", "new"), once) as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, SPACE, unified_records(1), NOW)
            vectors.fail(ApiFault(path="/query", status=401))
            assert len((await store.search(KEY, QUERY, NOW)).results) == 1


async def test_a_foreign_row_sounds_the_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "coxswain_memory_foreign_rows_total"
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await store.save(NamespaceKey("legal", "a", MemoryKind.UNIFIED), SPACE, unified_records(2, "secret"), NOW)
            await store.save(NamespaceKey("sales", "b", MemoryKind.UNIFIED), SPACE, unified_records(1, "crew"), NOW)
            monkeypatch.setattr(vector_search_emulator, "_condition", lambda endpoint, body: None)
            before = REGISTRY.get_sample_value(name) or 0.0
            with structlog.testing.capture_logs() as logs:
                assert (await store.search(KEY, QUERY, NOW)).results == []
                assert (await store.count(KEY, EVERYTHING, NOW)).count == 0
                assert await store.delete(KEY, None, EVERYTHING, NOW) == 0
    assert (REGISTRY.get_sample_value(name) or 0.0) - before == 9
    alarms = [entry for entry in logs if entry["event"] == "foreign_row_dropped"]
    assert {entry["log_level"] for entry in alarms} == {"critical"}
    assert len(alarms) == 9
    assert "secret" not in str(logs)


async def test_every_query_asks_for_the_group_of_its_rows() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, SPACE, [Record("r", Unified("text"), VECTOR)], NOW)
            await store.search(KEY, QUERY, NOW)
            await store.get(KEY, ["r"], NOW, embeddings=True)
            await store.page(KEY, EVERYTHING, 5, None, NOW, embeddings=True)
            await store.count(KEY, EVERYTHING, NOW)
            await store.touch(KEY, ["r"], NOW)
            await store.scope_rows(KEY, "/", NOW)
            await store.delete(KEY, ["r"], None, NOW)
            await store.clear(KEY)
        queries = [exchange.body for exchange in vectors.requests(path="/query")]
    assert len(queries) >= 9
    for body in queries:
        assert {"id", "group_id", "crew_id"} <= set(body["columns"])
        filters = json.loads(body["filters_json"])
        assert (filters["group_id"], filters["crew_id"]) == ("sales", "a")


# Writes that are not seen yet


async def _settle(store: DatabricksMemoryStore, key: NamespaceKey = KEY) -> None:
    for _ in range(6):
        await store.count(key, EVERYTHING, NOW)


async def test_a_record_that_is_not_seen_yet_is_not_found_but_deleted_for_good() -> None:
    with emulator() as vectors:
        vectors.behaviour.visible_after = 4
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, SPACE, unified_records(2), NOW)
            assert await store.get(KEY, ["r0"], NOW, embeddings=False) == []
            assert (await store.count(KEY, EVERYTHING, NOW)).count == 0
            await store.delete(KEY, ["r0"], None, NOW)
            await _settle(store)
            assert [record.id for record in await store.get(KEY, ["r0", "r1"], NOW, embeddings=False)] == ["r1"]
        assert [row["id"] for row in vectors.rows(INDEX)] == [KEY.stored_id("r1")]


async def test_touch_neither_brings_back_what_was_deleted_nor_undoes_a_save() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url, settle_seconds=3600)
            others = open_store(client, vectors.url)
            await others.save(KEY, SPACE, [Record(n, Unified("old"), VECTOR) for n in ("gone", "kept", "other")], NOW)
            vectors.behaviour.visible_after = 3
            await store.delete(KEY, ["gone"], None, NOW)
            await store.save(KEY, SPACE, [Record("kept", Unified("new"), VECTOR, created_at=NOW)], NOW)
            later = NOW + timedelta(seconds=1)
            # All three are still seen as they were.
            assert await store.touch(KEY, ["gone", "kept", "other"], later) == 2
            vectors.behaviour.visible_after = 0
            await _settle(store)
            await _settle(store)
            records = {
                record.id: record.body
                for record in await store.get(KEY, ["gone", "kept", "other"], NOW, embeddings=False)
            }
        assert records == {"kept": Unified("new"), "other": Unified("old", last_accessed=later)}


async def test_emptying_removes_what_is_saved_again_meanwhile() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            repository = open_repository(client, vectors.url)
            await repository.upsert(INDEX, KEY, unified_records(3), "m")
            steps = empty_index(repository, INDEX, OWNER, EVERYTHING, NOW, 0.001)
            assert (await anext(steps)).done == 3
            await repository.upsert(INDEX, KEY, unified_records(1), "m")
            rest = [step async for step in steps]
            assert rest[-1].finished
            assert rest[-1].done == 3
        assert vectors.rows(INDEX) == []


async def test_emptying_ends_where_removals_are_accepted_and_never_happen() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            repository = open_repository(client, vectors.url)
            await repository.upsert(INDEX, KEY, unified_records(3), "m")
            accepted = '{"status": "SUCCESS", "result": {"success_row_count": 3}}'
            vectors.fail(ApiFault(path="delete-data", status=200, body=accepted, times=None))
            with pytest.raises(Unavailable, match="call again"):
                async for step in empty_index(repository, INDEX, OWNER, EVERYTHING, NOW, 0.0001):
                    assert not step.finished


# What the credential may not see


async def test_a_token_for_indexes_alone_learns_the_language_of_the_endpoint_and_spoils_nothing_for_others() -> None:
    tokens = {"rows": Caller("ann", frozenset({"vectorsearch.vector-search-indexes"})), "all": Caller("ben")}
    for kind in ("STANDARD", "STORAGE_OPTIMIZED"):
        with emulator(kind, tokens=tokens) as vectors:
            async with workspace_client(FixedCredentials("rows")) as client:
                store = open_store(client, vectors.url)
                await store.save(KEY, SPACE, unified_records(2), NOW)
                assert len((await store.search(KEY, QUERY, NOW)).results) == 2
                vectors.clear_log()
                assert len((await store.search(KEY, QUERY, NOW)).results) == 2
                # It is remembered now: one request for one search.
                assert [exchange.status for exchange in vectors.log] == [200]
    with emulator("STORAGE_OPTIMIZED", tokens=tokens) as vectors:
        async with workspace_client(FixedCredentials("rows")) as client:
            repository = open_repository(client, vectors.url)
            # A failure of another sort teaches nothing.
            vectors.fail(ApiFault(path="/query", status=500, times=None))
            with pytest.raises(Unavailable):
                await repository.searches.similarity_search(INDEX, OWNER, VECTOR, EVERYTHING, 1, NOW, embeddings=False)
            vectors.clear_faults()
            client._transport._credentials = FixedCredentials("all")
            found = await repository.searches.similarity_search(
                INDEX, OWNER, VECTOR, EVERYTHING, 1, NOW, embeddings=False
            )
            assert found.hits == []


async def test_a_token_that_no_header_can_hold_is_refused_and_asked_for_anew() -> None:
    with emulator() as vectors:
        async with workspace_client(FixedCredentials("dapi\nx")) as client:
            with pytest.raises(FailedPrecondition, match="refused the group's credential"):
                await open_repository(client, vectors.url).resources.describe_index(INDEX)
        async with workspace_client(FixedCredentials("dapi\nx", "dapi-x")) as client:
            credentials = client._transport._credentials
            await credentials.resolve(vectors.url)
            await open_repository(client, vectors.url).resources.describe_index(INDEX)


async def test_a_missing_scope_or_privilege_is_told_with_how_to_grant_it() -> None:
    tokens = {"none": Caller("ann", frozenset({"sql"})), "all": Caller("ben")}
    with emulator(tokens=tokens) as vectors:
        vectors.restrict(INDEX, readers=["somebody"])
        for token, told in (
            ("none", "request vector-search"),
            ("all", "GRANT SELECT, MODIFY ON TABLE main.memories.unified"),
        ):
            async with workspace_client(FixedCredentials(token)) as client:
                with pytest.raises(PermissionDenied, match=told):
                    await open_repository(client, vectors.url).resources.describe_index(INDEX)


async def test_an_index_made_anew_with_other_dimensions_is_asked_in_them() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            repository = open_repository(client, vectors.url)
            assert (await repository.count_documents(INDEX, OWNER, EVERYTHING, NOW)).count == 0
            await repository.resources.delete_index(INDEX)
            await repository.resources.create_index(INDEX, MemoryKind.UNIFIED, 5)
            assert (await repository.resources.describe_index(INDEX)).dimension == 5
            assert (await repository.count_documents(INDEX, OWNER, EVERYTHING, NOW)).count == 0


# What could not be looked at


async def test_a_search_tells_when_matches_may_lie_beyond_what_it_could_look_at() -> None:
    contains = Filter((Condition(Column.SOURCE, Comparison.STARTS_WITH, ("x",)),), include_private=True)
    with emulator() as vectors:
        vectors.behaviour.page_rows = 5000
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            repository = open_repository(client, vectors.url)
            near = [Record(f"n{n}", Unified("t"), VECTOR, created_at=NOW) for n in range(MAX_RESULTS - 1)]
            await repository.upsert(INDEX, KEY, near, "m")
            assert not (await store.search(KEY, Query(VECTOR, 5, contains), NOW)).truncated
            far = [
                Record(f"f{n}", Unified("t", source="x"), unit_vector([0, 1, n + 1]), created_at=NOW) for n in range(3)
            ]
            await repository.upsert(INDEX, KEY, far, "m")
            found = await store.search(KEY, Query(VECTOR, 5, contains), NOW)
            assert found.truncated
            # Nothing as similar as that lies beyond.
            assert not (await store.search(KEY, Query(VECTOR, 5, contains, min_score=0.9), NOW)).truncated
            assert not (await store.search(KEY, Query(VECTOR, 5, EVERYTHING), NOW)).truncated
            ranking = Ranking(1, 1, 0, 30)
            assert (await store.search(KEY, Query(VECTOR, 5, EVERYTHING, ranking=ranking), NOW)).truncated


async def test_a_ranked_search_of_few_records_is_complete() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, SPACE, unified_records(20), NOW)
            found = await store.search(KEY, Query(VECTOR, 5, EVERYTHING, ranking=Ranking(1, 1, 0, 30)), NOW)
    assert (len(found.results), found.truncated) == (5, False)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8))
def test_a_vector_comes_back_from_its_text_to_the_last_bit(values: list[float]) -> None:
    vector = np.asarray(values, dtype=np.float32)
    back = np.asarray(json.loads(encode_vector(vector)), dtype=np.float32)
    assert np.array_equal(back, vector)
