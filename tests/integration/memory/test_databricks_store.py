"""The Databricks repository and store against the emulated service: isolation, wire, faults."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.egress import AddressPolicy
from services.common.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.common.grpc.call import Call, enter_call
from services.common.http import EgressClient
from services.memory.domain.filters import EVERYTHING, Comparison, Condition, Filter
from services.memory.domain.listings import ListPosition
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, ShortTerm, Unified
from services.memory.domain.searches import Query, Ranking, SearchPosition
from services.memory.domain.vectors import EmbeddingSpace, unit_vector
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.descriptions import ResourceState
from services.memory.stores.databricks.listed_positions import ListedPositions
from services.memory.stores.databricks.store import DatabricksMemoryStore
from services.memory.stores.databricks.transport import ClientLimits, Transport
from tests.integration.memory.databricks_parts import (
    INDEX,
    KEY,
    LIMITS,
    OWNER,
    SHORT,
    EndpointType,
    FixedCredentials,
    emulator,
    open_repository,
    open_store,
    unified_records,
    workspace_client,
)
from tests.integration.memory.store_model import (
    FILTERS,
    KEYS,
    NOW,
    OPERATIONS,
    SPACE,
    VECTORS,
    Model,
    apply,
    check,
)
from tests.support import vector_search_emulator
from tests.support.databricks_http import ApiFault


@pytest.mark.parametrize("endpoint_type", ["STANDARD", "STORAGE_OPTIMIZED"])
def test_on_a_shared_index_no_group_or_crew_ever_sees_or_changes_rows_of_another(endpoint_type: EndpointType) -> None:
    @given(OPERATIONS, FILTERS, VECTORS)
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def property_holds(operations: list[tuple[Any, ...]], chosen: Filter, vector: Any) -> None:
        async def scenario() -> None:
            with emulator(endpoint_type) as vectors:
                async with workspace_client() as client:
                    stores = {group: open_store(client, vectors.url) for group in ("sales", "legal")}
                    model: Model = {key: {} for key in KEYS}
                    for operation in operations:
                        await apply([stores[operation[2].group_id]], model, operation)
                    for key in KEYS:
                        single: Model = {key: model[key]}
                        await check_namespace(stores[key.group_id], single, EVERYTHING, vector)
                        await check_namespace(stores[key.group_id], single, chosen, vector)
                    assert len(vectors.rows(INDEX)) == sum(len(rows) for rows in model.values())

        asyncio.run(scenario())

    property_holds()


async def check_namespace(store: DatabricksMemoryStore, model: Model, chosen: Filter, vector: Any) -> None:
    await check([store], model, chosen, vector, namespaces=False)


async def test_a_foreign_row_is_dropped_whatever_the_store_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await store.save(NamespaceKey("legal", "a", MemoryKind.UNIFIED), SPACE, unified_records(3, "foreign"), NOW)
            await store.save(KEY, SPACE, unified_records(1, "own"), NOW)
            # As if the service forgot every filter.
            monkeypatch.setattr(vector_search_emulator, "_condition", lambda endpoint, body: None)
            found = (await store.search(KEY, Query(unit_vector([1, 0, 0]), 10, EVERYTHING), NOW)).results
            assert [f.record.id for f in found] == ["own0"]
            assert (await store.count(KEY, EVERYTHING, NOW)).count == 1
            page = await store.page(KEY, EVERYTHING, 10, None, NOW, embeddings=False)
            assert {record.id for record in page.records} <= {"own0"}
            assert await store.clear(KEY) == 1
            assert len(vectors.rows(INDEX)) == 3


async def test_indexes_are_reached_by_their_own_path_alone_which_tokens_of_users_may_use() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, SPACE, unified_records(2), NOW)
            await store.search(KEY, Query(unit_vector([1, 0, 0]), 10, EVERYTHING), NOW)
            await store.delete(KEY, ["r0"], None, NOW)
            repository = open_repository(client, vectors.url)
            await repository.resources.describe_index(INDEX)
            await repository.resources.list_indexes()
            await repository.resources.create_index("main.memories.more", MemoryKind.ENTITY, 3)
            await repository.resources.delete_index("main.memories.more")
        assert not [exchange.path for exchange in vectors.log if "/endpoints/shared/indexes" in exchange.path]


async def test_camel_case_integer_codes_and_columns_of_later_versions_are_understood() -> None:
    with emulator() as vectors:
        vectors.behaviour.camel_case = True
        vectors.integer_error_codes = True
        vectors.behaviour.page_rows = 7
        vectors.behaviour.max_scan_rows = 7
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, SPACE, unified_records(30), NOW)
            found = (await store.search(KEY, Query(unit_vector([1, 0, 0]), 25, EVERYTHING), NOW)).results
            assert len(found) == 25
            repository = open_repository(client, vectors.url)
            scanned = [row async for rows, _ in client.scan(vectors.url, INDEX) for row in rows]
            assert len(scanned) == 30
            assert scanned[0]["private"] is False
            assert len(scanned[0]["embedding"]) == 3
            assert (await repository.resources.describe_index("main.memories.none")).state is ResourceState.NOT_FOUND


async def test_pages_are_followed_to_ten_thousand_and_counts_say_when_there_may_be_more() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            repository = open_repository(client, vectors.url)
            await repository.upsert(INDEX, KEY, unified_records(2500), "m")
            tally = await repository.count_documents(INDEX, OWNER, EVERYTHING, NOW)
            assert (tally.count, tally.at_least) == (2500, False)
            assert len(vectors.requests(path="query-next-page")) == 2
            vectors.behaviour.page_rows = 5000
            await repository.upsert(INDEX, KEY, unified_records(8000, "s"), "m")
            tally = await repository.count_documents(INDEX, OWNER, EVERYTHING, NOW)
            assert (tally.count, tally.at_least) == (10_000, True)


async def test_lists_beyond_ten_thousand_read_the_whole_index_and_stay_exact() -> None:
    with emulator() as vectors:
        vectors.behaviour.page_rows = 5000
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            repository = open_repository(client, vectors.url)
            records = unified_records(10_050)
            for n, record in enumerate(records):
                record.created_at = NOW - timedelta(seconds=n)
            await repository.upsert(INDEX, KEY, records, "m")
            await repository.upsert(INDEX, NamespaceKey("legal", "a", MemoryKind.UNIFIED), unified_records(5, "x"), "m")
            page = await store.page(KEY, EVERYTHING, 5, None, NOW, embeddings=False)
            assert [record.id for record in page.records] == [f"r{n}" for n in range(5)]
            assert page.more
            rows = await store.scope_rows(KEY, "/", NOW)
            assert sum(row.record_count for row in rows) == 10_050


async def test_a_list_is_read_through_once_and_then_with_one_request_for_each_page() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            records = unified_records(2500)
            for n, record in enumerate(records):
                record.created_at = NOW - timedelta(seconds=n)
            await open_repository(client, vectors.url).upsert(INDEX, KEY, records, "m")
            await store.count(KEY, EVERYTHING, NOW)
            ids: list[str] = []
            asked: list[int] = []
            after = None
            while True:
                vectors.clear_log()
                page = await store.page(KEY, EVERYTHING, 500, after, NOW, embeddings=False)
                asked.append(len(vectors.log))
                ids += [record.id for record in page.records]
                if after is None:
                    # What is removed and saved meanwhile neither repeats nor hides others.
                    await store.delete(KEY, ["r600"], None, NOW)
                    await store.save(KEY, SPACE, [Record("new", Unified("new"), unit_vector([1, 0, 0]))], NOW)
                if not page.more:
                    break
                after = page.last
            assert ids == [f"r{n}" for n in range(2500) if n != 600]
            assert asked == [4, 1, 1, 1, 1]


@pytest.mark.parametrize("most", [1, 20, 49, 1000])
async def test_a_list_longer_than_what_is_remembered_goes_on_to_its_end(most: int) -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            listed = ListedPositions(60, most=most)
            store = open_store(client, vectors.url, listed=listed)
            records = unified_records(50)
            for n, record in enumerate(records):
                record.created_at = NOW - timedelta(seconds=n)
            await open_repository(client, vectors.url).upsert(INDEX, KEY, records, "m")
            places: list[ListPosition | None] = [None]
            while True:
                page = await store.page(KEY, EVERYTHING, 7, places[-1], NOW, embeddings=False)
                first = 7 * (len(places) - 1)
                assert [record.id for record in page.records] == [f"r{n}" for n in range(first, min(50, first + 7))]
                if not page.more:
                    break
                places.append(page.last)
            assert len(places) == 8
            # Where a list is gone on with first, once it is not remembered any more, hides none of what comes before.
            for reader in (open_store(client, vectors.url, listed=ListedPositions(60, most=most)), store):
                for number in (5, 2):
                    page = await reader.page(KEY, EVERYTHING, 7, places[number], NOW, embeddings=False)
                    assert [record.id for record in page.records] == [f"r{7 * number + n}" for n in range(7)]


async def test_reading_all_of_more_than_ten_thousand_is_one_pass() -> None:
    with emulator() as vectors:
        vectors.behaviour.page_rows = 5000
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            repository = open_repository(client, vectors.url)
            await repository.upsert(INDEX, KEY, unified_records(10_500), "m")
            await repository.upsert(INDEX, NamespaceKey("legal", "a", MemoryKind.UNIFIED), unified_records(5, "x"), "m")
            scans = -(-10_505 // client.limits.scan_rows) + 1
            seen: list[tuple[str, str]] = []
            async for portion in store.read_through(KEY, EVERYTHING, "", NOW, embeddings=True):
                seen += [(position, record.id) for position, record in portion]
            assert {record_id for _, record_id in seen} == {f"r{n}" for n in range(10_500)}
            assert len(seen) == 10_500
            assert len(vectors.requests(path="scan")) <= scans
            # From the middle on, only what follows is read.
            middle = seen[9_000][0]
            rest = [
                position
                async for portion in store.read_through(KEY, EVERYTHING, middle, NOW, embeddings=False)
                for position, _ in portion
            ]
            assert rest == [position for position, _ in seen[9_001:]]


async def test_emptying_goes_in_rounds_until_nothing_is_left_and_leaves_others_alone() -> None:
    with emulator() as vectors:
        vectors.behaviour.page_rows = 5000
        vectors.behaviour.visible_after = 2
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            repository = open_repository(client, vectors.url)
            await repository.upsert(INDEX, KEY, unified_records(10_500), "m")
            await repository.upsert(INDEX, NamespaceKey("sales", "b", MemoryKind.UNIFIED), unified_records(5), "m")
            for _ in range(3):
                await repository.resources.describe_index(INDEX)
            assert await store.clear(KEY) == 10_500
            assert len(vectors.rows(INDEX)) == 5


async def test_writes_are_split_by_rows_and_bytes() -> None:
    with emulator() as vectors:
        vectors.behaviour.max_request_bytes = 60_000
        limits = ClientLimits(
            attempts=1,
            attempt_seconds=20,
            call_seconds=60,
            upsert_rows=40,
            upsert_bytes=50_000,
            delete_keys=25,
            scan_rows=100,
            response_bytes=1 << 20,
        )
        async with workspace_client(limits=limits) as client:
            repository = open_repository(client, vectors.url)
            # Quotes and backslashes double within a JSON string within JSON.
            records = [
                *unified_records(100),
                *(Record(f"q{n}", Unified('"\\' * 5000), unit_vector([1, 0, 0])) for n in range(6)),
            ]
            for record in records:
                record.created_at = NOW
            await repository.upsert(INDEX, KEY, records, "m")
            assert len(vectors.rows(INDEX)) == 106
            sent = [len(json.loads(e.body["inputs_json"])) for e in vectors.requests(path="upsert-data")]
            assert sum(sent) == 106
            assert max(sent) <= 40
            await repository.delete_records(INDEX, [KEY.stored_id(record.id) for record in records])
            assert len(vectors.requests(path="delete-data")) == 5
            assert vectors.rows(INDEX) == []


async def test_what_was_not_written_or_removed_is_named_by_the_clients_ids() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            vectors.behaviour.rejected_keys = {KEY.stored_id("r1"): -1}
            with pytest.raises(Aborted) as failure:
                await store.save(KEY, SPACE, unified_records(3), NOW)
            assert json.loads(failure.value.metadata["failed_ids"]) == ["r1"]
            assert failure.value.reason == "PARTIAL_FAILURE"
            assert len(vectors.rows(INDEX)) == 2
            vectors.behaviour.rejected_keys = {}
            await store.save(KEY, SPACE, unified_records(3), NOW)
            vectors.behaviour.rejected_keys = {KEY.stored_id("r2"): -1}
            with pytest.raises(Aborted) as failure:
                await store.delete(KEY, ["r0", "r2"], None, NOW)
            assert json.loads(failure.value.metadata["failed_ids"]) == ["r2"]
            assert len(vectors.rows(INDEX)) == 2


@pytest.mark.parametrize(
    "fault",
    [
        *({"status": status} for status in (429, 500, 502, 503, 504)),
        {"status": 400, "error_code": "REQUEST_LIMIT_EXCEEDED"},
        {"status": 502, "body": "<html>bad gateway</html>"},
        {"status": 200, "body": "<html>please wait</html>"},
        {"status": 200, "body": "[]"},
        {"status": 200, "body": "{}"},
    ],
)
async def test_a_service_that_is_busy_or_fails_is_asked_again(fault: dict[str, Any]) -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, SPACE, unified_records(1), NOW)
            vectors.clear_log()
            for path in ("/query", "/upsert-data", "/delete-data"):
                vectors.fail(ApiFault(path=path, retry_after="0", **fault))
            await store.save(KEY, SPACE, unified_records(2), NOW)
            assert len((await store.search(KEY, Query(unit_vector([1, 0, 0]), 5, EVERYTHING), NOW)).results) == 2
            assert await store.delete(KEY, ["r0", "r1"], None, NOW) == 2
            assert [len(vectors.requests(path=path)) for path in ("/upsert-data", "/delete-data")] == [2, 2]
            assert vectors.rows(INDEX) == []


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429},
        {"status": 500},
        {"status": 400, "error_code": "REQUEST_LIMIT_EXCEEDED"},
        {"status": 200, "body": "<html>"},
        {"status": 200, "body": "{}"},
        {"drop": True},
    ],
)
async def test_attempts_are_bounded_and_the_failure_says_when_to_come_back(fault: dict[str, Any]) -> None:
    with emulator() as vectors:
        vectors.fail(ApiFault(path="/query", times=None, **fault))
        async with workspace_client() as client:
            with pytest.raises(Unavailable) as failure:
                await open_store(client, vectors.url).search(KEY, Query(unit_vector([1, 0, 0]), 5), NOW)
        assert len(vectors.requests(path="/query")) == LIMITS.attempts
        assert failure.value.reason == "STORE_FAILED"
        assert failure.value.retry_after


async def test_a_pause_longer_than_the_deadline_is_not_waited_for() -> None:
    with emulator() as vectors:
        vectors.fail(ApiFault(path="/query", status=503, times=None, retry_after="3600"))
        async with workspace_client() as client:
            loop = asyncio.get_running_loop()
            enter_call(Call(request_id="test", method="/test", deadline=loop.time() + 30))
            with pytest.raises(Unavailable) as failure:
                await open_store(client, vectors.url).search(KEY, Query(unit_vector([1, 0, 0]), 5), NOW)
        assert len(vectors.requests(path="/query")) == 1
        assert failure.value.retry_after == 3600


async def test_nothing_is_asked_when_no_time_is_left() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            enter_call(Call(request_id="test", method="/test", deadline=asyncio.get_running_loop().time()))
            with pytest.raises(DeadlineExceeded):
                await open_store(client, vectors.url).search(KEY, Query(unit_vector([1, 0, 0]), 5), NOW)
        assert vectors.log == []


async def test_a_write_whose_answer_was_lost_is_sent_again_and_stored_once() -> None:
    with emulator() as vectors:
        vectors.fail(ApiFault(path="/upsert-data", drop=True, after_effect=True))
        async with workspace_client() as client:
            await open_store(client, vectors.url).save(KEY, SPACE, unified_records(3), NOW)
        assert len(vectors.rows(INDEX)) == 3
        assert len(vectors.requests(path="/upsert-data")) == 2


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        (ApiFault(path="/query", status=403), PermissionDenied, "STORE_FAILED"),
        (ApiFault(path="/query", status=400), FailedPrecondition, "STORE_FAILED"),
        (ApiFault(path="/query", status=400, error_code="INVALID_STATE"), FailedPrecondition, "INDEX_NOT_READY"),
        (ApiFault(path="/query", status=404), FailedPrecondition, "INDEX_NOT_READY"),
        (
            ApiFault(path="/query", status=400, error_code="QUOTA_EXCEEDED"),
            ResourceExhausted,
            "UPSTREAM_QUOTA_EXHAUSTED",
        ),
    ],
)
async def test_refusals_have_their_own_status_and_are_not_repeated(
    fault: ApiFault, kind: type[Exception], reason: str
) -> None:
    with emulator() as vectors:
        vectors.fail(fault)
        async with workspace_client() as client:
            with pytest.raises(kind) as failure:
                await open_store(client, vectors.url).search(KEY, Query(unit_vector([1, 0, 0]), 5), NOW)
        assert getattr(failure.value, "reason", "") == reason
        assert len(vectors.requests(path="/query")) == 1


@pytest.mark.parametrize(
    "fault",
    [
        ApiFault(path="/query", status=401, times=None),
        ApiFault(path="/query", status=403, times=None, message="Token is expiring within 30 seconds"),
        ApiFault(path="/query", status=400, times=None, message="ExpiredJwtException: gone"),
    ],
)
async def test_a_refused_token_is_the_callers_failure_and_never_replaced_by_another_identity(fault: ApiFault) -> None:
    with emulator() as vectors:
        vectors.fail(fault)
        for on_behalf, kind in ((True, Unauthenticated), (False, FailedPrecondition)):
            async with workspace_client(FixedCredentials("one", on_behalf_of_user=on_behalf)) as client:
                with pytest.raises(kind) as failure:
                    await open_store(client, vectors.url).search(KEY, Query(unit_vector([1, 0, 0]), 5), NOW)
            assert getattr(failure.value, "reason", "") == "UPSTREAM_CREDENTIAL_REJECTED"


async def test_a_remembered_token_that_was_replaced_is_asked_for_again() -> None:
    with emulator() as vectors:
        async with workspace_client(FixedCredentials("old", "new")) as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, SPACE, unified_records(1), NOW)
            vectors.fail(ApiFault(path="/query", status=401))
            assert len((await store.search(KEY, Query(unit_vector([1, 0, 0]), 5, EVERYTHING), NOW)).results) == 1
        tokens = [exchange.headers["authorization"] for exchange in vectors.requests(path="/query")]
        assert tokens == ["Bearer old", "Bearer old", "Bearer new"]


async def test_a_workspace_in_a_private_network_is_refused_before_anything_is_sent() -> None:
    with emulator() as vectors:
        enter_call(Call(request_id="test", method="/test"))
        http = EgressClient(AddressPolicy(setting="TEST"), connect_timeout=30, connections_per_origin=1)
        client = VectorSearchClient(Transport(http, FixedCredentials("dapi-x"), LIMITS), LIMITS)
        for url in (vectors.url, vectors.url.replace("127.0.0.1", "localhost")):
            with pytest.raises(PermissionDenied) as failure:
                await open_store(client, url).search(KEY, Query(unit_vector([1, 0, 0]), 5), NOW)
            assert failure.value.reason == "DESTINATION_NOT_ALLOWED"
        await http.close()
        assert vectors.log == []


async def test_an_owner_that_cannot_be_quoted_safely_is_refused_on_storage_optimized_endpoints() -> None:
    with emulator("STORAGE_OPTIMIZED") as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            for group in ("x' OR '1'='1", "x\\", "x\n"):
                with pytest.raises(InvalidArgument):
                    await store.count(NamespaceKey(group, "a", MemoryKind.UNIFIED), EVERYTHING, NOW)
        assert vectors.requests(path="/query") == []


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12))
@settings(max_examples=40, deadline=None)
def test_no_value_of_a_condition_breaks_out_of_a_filter(value: str) -> None:
    async def scenario() -> None:
        for endpoint_type in ("STANDARD", "STORAGE_OPTIMIZED"):
            with emulator(endpoint_type) as vectors:
                async with workspace_client() as client:
                    store = open_store(client, vectors.url)
                    await store.save(KEY, SPACE, [Record("own", Unified(value or "x"), unit_vector([1, 0, 0]))], NOW)
                    await store.save(KEYS[2], SPACE, [Record("foreign", Unified(value), unit_vector([1, 0, 0]))], NOW)
                    chosen = Filter((Condition("content", Comparison.EQUAL, (value or "x",)),))
                    found = (await store.search(KEY, Query(unit_vector([1, 0, 0]), 5, chosen), NOW)).results
                    assert [f.record.id for f in found] == ["own"]

    asyncio.run(scenario())


async def test_vectors_survive_the_wire_to_the_last_bit_that_matters() -> None:
    with emulator(dimension=64) as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url, 64)
            random = np.random.default_rng(7)
            records = [
                Record(f"r{n}", Unified("t"), unit_vector(random.normal(size=64)), created_at=NOW) for n in range(20)
            ]
            await store.save(KEY, EmbeddingSpace("test/embed", 64), records, NOW)
            back = await store.get(KEY, [record.id for record in records], NOW, embeddings=True)
            for sent, received in zip(records, back, strict=True):
                assert sent.embedding is not None
                assert received.embedding is not None
                np.testing.assert_allclose(received.embedding, sent.embedding, atol=1e-9)
            query = unit_vector(random.normal(size=64))
            found = (await store.search(KEY, Query(query, 20, EVERYTHING), NOW)).results
            vectors_by_id = {record.id: np.asarray(record.embedding) for record in records}
            for result in found:
                assert result.similarity == pytest.approx(float(vectors_by_id[result.record.id] @ query), abs=2e-6)


async def test_short_term_memories_end_there_too() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            key = NamespaceKey("sales", "a", MemoryKind.SHORT_TERM)
            records = [
                Record(name, ShortTerm(name, ttl_hours=hours), unit_vector([1, 0, 0]), created_at=NOW)
                for name, hours in (("hour", 1), ("day", 24))
            ]
            await store.save(key, SPACE, records, NOW)
            later = NOW + timedelta(hours=1)
            found = (await store.search(key, Query(unit_vector([1, 0, 0]), 5), later)).results
            assert [f.record.id for f in found] == ["day"]
            assert (await store.count(key, EVERYTHING, later)).count == 1
            assert [r.id for r in await store.get(key, ["hour", "day"], later, embeddings=False)] == ["day"]
            assert await store.clear(key) == 2


async def test_expired_memories_are_removed_by_a_later_save_of_their_crew_and_never_those_of_others() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            own, other = (NamespaceKey("sales", crew, MemoryKind.SHORT_TERM) for crew in ("a", "b"))

            def record(name: str, hours: int) -> Record:
                return Record(name, ShortTerm(name, ttl_hours=hours), unit_vector([1, 0, 0]), created_at=NOW)

            await store.save(own, SPACE, [record("hour", 1), record("day", 24)], NOW)
            await store.save(other, SPACE, [record("hour", 1)], NOW)
            later = NOW + timedelta(hours=25)
            await store.save(own, SPACE, [record("week", 168)], later)
            kept = {own.stored_id("day"), own.stored_id("week"), other.stored_id("hour")}
            assert {row["id"] for row in vectors.rows(SHORT)} == kept
            # A removal that fails takes nothing from the save.
            vectors.fail(ApiFault(path="delete-data", status=403))
            await store.save(other, SPACE, [record("week", 168)], later)
            assert {row["id"] for row in vectors.rows(SHORT)} == kept | {other.stored_id("week")}


async def test_a_memory_saved_again_after_it_has_expired_lives_anew() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            key = NamespaceKey("sales", "a", MemoryKind.SHORT_TERM)
            for now in (NOW, NOW + timedelta(hours=2)):
                await store.save(key, SPACE, [Record("r", ShortTerm("t", ttl_hours=1), unit_vector([1, 0, 0]))], now)
                (record,) = await store.get(key, ["r"], now, embeddings=False)
                assert record.created_at == now


async def test_saving_again_keeps_the_time_of_the_first_save() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            for text, now in (("first", NOW), ("second", NOW + timedelta(days=1))):
                await store.save(KEY, SPACE, [Record("r", Unified(text), unit_vector([1, 0, 0]))], now)
            (record,) = await store.get(KEY, ["r"], NOW, embeddings=False)
            assert (record.body, record.created_at) == (Unified("second"), NOW)


async def test_a_kind_without_an_index_names_the_mend() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            with pytest.raises(FailedPrecondition, match="Provision"):
                await open_store(client, vectors.url).space(NamespaceKey("sales", "a", MemoryKind.ENTITY))


STATES = [
    ("ONLINE", ResourceState.READY),
    ("ONLINE_NO_PENDING_UPDATE", ResourceState.READY),
    ("ONLINE_DIRECT_ACCESS", ResourceState.READY),
    ("PROVISIONING_PIPELINE_RESOURCES", ResourceState.PROVISIONING),
    ("INITIALIZING", ResourceState.PROVISIONING),
    ("OFFLINE", ResourceState.OFFLINE),
    ("OFFLINE_FAILED", ResourceState.FAILED),
    ("SOMETHING_NEW", ResourceState.UNSPECIFIED),
]


@pytest.mark.parametrize(("word", "state"), STATES)
async def test_the_services_words_for_states_are_understood(word: str, state: ResourceState) -> None:
    with emulator() as vectors:
        vectors.set_index_state(INDEX, word)
        async with workspace_client() as client:
            description = await open_repository(client, vectors.url).resources.describe_index(INDEX)
        assert (description.state, description.detailed_state) == (state, word)
        assert description.dimension == 3


async def test_pages_of_a_search_are_together_what_one_search_finds() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            records = unified_records(30)
            for place, record in enumerate(records):
                record.created_at = NOW - timedelta(days=place % 4)
            await store.save(KEY, SPACE, records, NOW)
            ranking = Ranking(1, 1, 1, 10)
            odd = Filter(conditions=(Condition("content", Comparison.CONTAINS, ("text",)),))
            for rank, chosen in ((None, EVERYTHING), (None, odd), (ranking, EVERYTHING)):
                whole = Query(unit_vector((1, 2, 3)), 100, chosen, ranking=rank, asked_at=NOW)
                expected = [found.record.id for found in (await store.search(KEY, whole, NOW)).results]
                assert len(expected) == 30
                paged: list[str] = []
                after = None
                while True:
                    later = NOW + timedelta(days=len(paged))
                    query = Query(unit_vector((1, 2, 3)), 7, chosen, ranking=rank, asked_at=NOW, after=after)
                    results = (await store.search(KEY, query, later)).results
                    if not results:
                        break
                    assert len(results) <= 7
                    paged += [found.record.id for found in results]
                    after = SearchPosition(results[-1].score, KEY.stored_id(paged[-1]), len(paged))
                assert paged == expected
