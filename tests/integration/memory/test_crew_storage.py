"""CrewAI's storage protocol, from a crew process's side through its host to the memory service and its stores."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1.record_pb2 import Record, UnifiedRecord
from coxswain.orchestrator.worker.link_pb2 import CrewRequest, HostReply
from services.common.grpc.json_values import from_struct
from services.memory.settings import MemorySettings
from services.orchestrator.domain.crew import MemorySpec, RecallMode, RecallSpec
from services.orchestrator.worker.host.activity import Activity
from services.orchestrator.worker.host.crew_calls import CrewCalls
from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.host.memory_calls import MemoryCalls
from services.orchestrator.worker.host.recorder import TaskRef
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.host.tool_calls import ToolCalls
from services.orchestrator.worker.link.errors import TaskError
from services.orchestrator.worker.link.limits import CrewLimits
from tests.integration.memory.databricks_support import make_indexes, use_workspace
from tests.integration.memory.support import DIMENSION, MODEL, place, serve_memory, stub
from tests.support.child_process import WAIT_SECONDS
from tests.support.harness import ALICE
from tests.support.text_vectors import embed_text
from tests.support.vector_search_emulator import VectorSearchEmulator


@pytest.fixture(scope="module", autouse=True)
def crewai(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """CrewAI as crew processes import it: without a word to anybody."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in crew_environment(tmp_path_factory.mktemp("crew")).items():
            patched.setenv(name, value)
        import crewai.memory.types

        yield crewai.memory.types


REMEMBERING = MemorySpec(enabled=True)


class _Principal:
    async def act(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()


async def _confirmed() -> None:
    """The execution is this host's."""


class _Attempt:
    """One attempt at a task as its storage knows it; what it says crosses in bytes, as on the way to a host."""

    def __init__(self, memories: Any, execution_id: str = "execution-1", spec: MemorySpec = REMEMBERING) -> None:
        from services.orchestrator.worker.crew.host_calls import HostCalls

        self.session = SimpleNamespace(execution_id=execution_id, spec=SimpleNamespace(memory=spec))
        self.index, self.name = 0, "read"
        self.host = HostCalls(self._ask, self._ask)
        self._loop = asyncio.get_running_loop()
        principal = cast("Any", _Principal())
        memory = MemoryCalls(
            memories,
            principal,
            memory_id="crew",
            crew_name="brief",
            embedding_model=MODEL,
            retry_seconds=5,
            confirm_claim=_confirmed,
            near_copy_similarity=spec.near_copy_similarity,
        )
        self._calls = CrewCalls(
            cast("Any", None),
            memory,
            ToolCalls(execution_id, cast("Any", None), cast("Any", None)),
            cast("Any", None),
            Activity(),
        )
        self._calls.begin_task(0, TaskJournal(TaskRef(0, "read", 1)))

    def _ask(self, request: CrewRequest) -> HostReply:
        serving = self._calls.serve(CrewRequest.FromString(request.SerializeToString()))
        reply = asyncio.run_coroutine_threadsafe(serving, self._loop).result(WAIT_SECONDS)
        return HostReply.FromString(reply.SerializeToString())


def _storage(attempt: _Attempt) -> Any:
    from services.orchestrator.worker.crew.memory_storage import ServiceMemoryStorage

    return ServiceMemoryStorage(cast("Any", attempt))


@pytest.fixture(params=["default", "chroma", "databricks"])
def kept_in(request: pytest.FixtureRequest) -> tuple[str, str]:
    """What keeps the memories, and the URL of the service's database; empty for SQLite."""
    return request.param, request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""


@pytest.fixture
async def memories(kept_in: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """The memory service of a group whose memories lie in each of the stores."""
    kind, url = kept_in
    with VectorSearchEmulator() as vectors:
        monkeypatch.setenv("DATABRICKS_HOST", vectors.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-operator")
        settings = MemorySettings(
            default_store="chroma" if kind == "chroma" else "sql",
            databricks_visibility_seconds=0.01,
            databricks_settle_seconds=0,
        )
        async with serve_memory(tmp_path, url, settings=settings) as (harness, _):
            if kind == "databricks":
                make_indexes(vectors)
                await use_workspace(harness, vectors.url, ALICE)
            yield stub(harness.channel(ALICE))


_MADE = datetime(2026, 1, 1)  # noqa: DTZ001 - CrewAI's moments are naive and in UTC


def _records(crewai: Any) -> list[Any]:
    def record(text: str, day: int, **fields: Any) -> Any:
        made = _MADE + timedelta(days=day)
        vector = [float(value) for value in embed_text(text, DIMENSION)]
        return crewai.MemoryRecord(content=text, created_at=made, last_accessed=made, embedding=vector, **fields)

    return [
        record("masts are tall", 0, scope="/crew/a/agent/x", categories=["ship", "wood"], importance=0.9),
        record(
            "sails are white", 1, scope="/crew/a/agent/y", categories=["ship"], metadata={"page": 1, "of": {"a": 2}}
        ),
        record("sails are torn", 2, scope="/crew/a", source="alice", private=True, importance=1.0),
        record("gulls cry", 3, scope="/crew/ab", source="bob", importance=0.0),
    ]


_TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
_MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1))  # noqa: DTZ001 - CrewAI's moments are naive


@given(
    st.fixed_dictionaries(
        {
            "id": _TEXTS,
            "content": _TEXTS,
            "scope": _TEXTS.map(lambda text: f"/{text}"),
            "categories": st.lists(_TEXTS.filter(bool), max_size=3, unique=True),
            "metadata": st.dictionaries(_TEXTS, _TEXTS | st.integers(-9, 9) | st.booleans() | st.none(), max_size=3),
            "importance": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
            "created_at": _MOMENTS,
            "last_accessed": _MOMENTS,
            "embedding": st.none() | st.lists(st.sampled_from([0.0, 0.5, -1.0]), min_size=1, max_size=4),
            "source": st.none() | _TEXTS.filter(bool),
            "private": st.booleans(),
        }
    )
)
def test_a_memory_crosses_the_link_whole(crewai: Any, fields: dict[str, Any]) -> None:
    from services.orchestrator.worker.crew.memory_records import record_to_proto
    from services.orchestrator.worker.crew.memory_storage import ServiceMemoryStorage

    record = crewai.MemoryRecord(**fields)
    message = Record.FromString(record_to_proto(record, {"execution_id": "e", "task": "t"}).SerializeToString())
    storage = ServiceMemoryStorage(cast("Any", SimpleNamespace(host=None)))
    assert storage.record_from_proto(message) == record


async def test_every_method_keeps_what_crewai_means_by_it(memories: Any, crewai: Any) -> None:
    from crewai.memory.storage.backend import StorageBackend

    storage = _storage(_Attempt(memories))
    assert isinstance(storage, StorageBackend)
    saved = _records(crewai)
    await asyncio.to_thread(_check, storage, saved)

    again = _records(crewai)[:1]
    await storage.asave(again)
    assert again[0].id == saved[0].id
    ((record, score),) = await storage.asearch(again[0].embedding, limit=1)
    assert record.content == "masts are tall"
    assert score == pytest.approx(1, abs=1e-5)
    assert await storage.adelete(record_ids=[again[0].id]) == 1
    await asyncio.to_thread(storage.reset)
    assert await asyncio.to_thread(storage.count) == 0


def _check(storage: Any, saved: list[Any]) -> None:
    from services.orchestrator.worker.crew.memory_storage import seen_by

    def ids(found: list[Any]) -> list[str]:
        return [record.id for record, _ in found]

    masts, sails, torn, gulls = saved
    storage.save(saved)
    assert len({record.id for record in saved}) == 4

    # Kept whole, vector and private ones included.
    for record in saved:
        kept = storage.get_record(record.id)
        assert kept.model_dump() == {**record.model_dump(), "importance": pytest.approx(record.importance)}
        assert kept.embedding == pytest.approx(record.embedding, abs=1e-6)
    assert storage.get_record("nobody") is None

    # Searches: by scope, categories, metadata, score and number, and private ones by their source alone.
    vector = sails.embedding
    found = storage.search(vector)
    assert ids(found)[0] == sails.id
    assert torn.id not in ids(found)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert sorted(ids(storage.search(vector, scope_prefix="/crew/a", min_score=-1.0))) == sorted([masts.id, sails.id])
    assert ids(storage.search(vector, categories=["wood"], min_score=-1.0)) == [masts.id]
    assert ids(storage.search(vector, metadata_filter={"page": 1, "of": {"a": 2}})) == [sails.id]
    assert ids(storage.search(vector, metadata_filter={"page": "1"}, min_score=-1.0)) == []
    assert ids(storage.search(vector, min_score=0.999)) == [sails.id]
    assert ids(storage.search(vector, limit=1)) == [sails.id]
    with seen_by("alice", include_private=False):
        assert torn.id in ids(storage.search(vector, min_score=-1.0))
    with seen_by("bob", include_private=False):
        assert torn.id not in ids(storage.search(vector, min_score=-1.0))
    with seen_by(None, include_private=True):
        assert torn.id in ids(storage.search(vector, min_score=-1.0))

    # Lists and figures.
    assert [record.id for record in storage.list_records()] == [gulls.id, sails.id, masts.id]
    assert [record.id for record in storage.list_records("/crew/a", limit=1, offset=1)] == [masts.id]
    assert storage.list_scopes() == ["/crew"]
    assert storage.list_scopes("/crew") == ["/crew/a", "/crew/ab"]
    info = storage.get_scope_info("/crew/a")
    assert (info.record_count, info.categories, info.child_scopes) == (2, ["ship", "wood"], ["/crew/a/agent"])
    assert (info.oldest_record, info.newest_record) == (masts.created_at, sails.created_at)
    assert storage.list_categories() == {"ship": 2, "wood": 1}
    assert storage.list_categories("/crew/ab") == {}
    assert (storage.count(), storage.count("/crew/a")) == (3, 2)

    # Changes.
    storage.update(sails.model_copy(update={"importance": 0.25, "categories": ["cloth"]}))
    changed = storage.get_record(sails.id)
    assert (changed.importance, changed.categories, changed.created_at) == (0.25, ["cloth"], sails.created_at)
    storage.touch_records([masts.id])
    assert storage.get_record(masts.id).last_accessed > masts.last_accessed

    # Removals: all that is given has to hold.
    assert storage.delete(scope_prefix="/crew/a", categories=["absent"]) == 0
    assert storage.delete(record_ids=[masts.id, gulls.id], scope_prefix="/crew/ab") == 1
    assert storage.delete(older_than=_MADE + timedelta(hours=1)) == 1
    assert storage.delete(metadata_filter={"page": 1}) == 1
    assert storage.list_records() == []


async def _stored(memories: Any) -> dict[str, dict[str, Any]]:
    listed = (await memories.ListRecords(pb.ListRecordsRequest(namespace=place()))).records
    return {record.unified.content: from_struct("metadata", record.metadata) for record in listed}


async def test_a_crew_that_runs_again_stores_nothing_twice_and_says_where_it_came_from(
    memories: Any, crewai: Any
) -> None:
    saved: list[Any] = []
    for number in range(1, 4):
        saved = _records(crewai)[:2]
        await _storage(_Attempt(memories, f"execution-{number}")).asave(saved)
    first = {"execution_id": "execution-1", "task": "read"}
    assert await _stored(memories) == {"masts are tall": first, "sails are white": first | {"page": 1, "of": {"a": 2}}}
    # Another execution that changes a memory does not take it for its own.
    storage = _storage(_Attempt(memories, "execution-4"))
    record = await asyncio.to_thread(storage.get_record, saved[1].id)
    assert record.metadata == {"page": 1, "of": {"a": 2}}
    record.content = "sails are grey"
    await asyncio.to_thread(storage.update, record)
    assert (await _stored(memories))["sails are grey"] == first | {"page": 1, "of": {"a": 2}}
    # The text that was changed is gone, and can be learnt again.
    await storage.asave(_records(crewai)[:2])
    assert set(await _stored(memories)) == {"masts are tall", "sails are white", "sails are grey"}


async def test_a_changed_memory_keeps_what_crewai_does_not_know_of_it(memories: Any, crewai: Any) -> None:
    made = Record(
        agent_id="reader",
        llm_model="m",
        tools_used=["ocr"],
        ttl_seconds=3600,
        unified=UnifiedRecord(content="sails are white", session_id="s1"),
    )
    saved = await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[made]))
    read = pb.GetRecordRequest(namespace=place(), id=saved.ids[0])
    before = (await memories.GetRecord(read)).record
    storage = _storage(_Attempt(memories))
    record = await asyncio.to_thread(storage.get_record, saved.ids[0])
    record.content = "sails are grey"
    await asyncio.to_thread(storage.update, record)
    after = (await memories.GetRecord(read)).record
    assert after.unified.content == "sails are grey"
    assert after.expire_time == before.expire_time
    assert (after.agent_id, after.llm_model, list(after.tools_used)) == ("reader", "m", ["ocr"])
    assert after.unified.session_id == "s1"
    # What a model writes into it of a new memory is to stay.
    record = await asyncio.to_thread(storage.get_record, saved.ids[0])
    assert await asyncio.to_thread(storage.rewrite, record, "sails are grey or red")
    merged = (await memories.GetRecord(read)).record
    assert (merged.unified.content, merged.agent_id) == ("sails are grey or red", "reader")
    assert not merged.HasField("expire_time")


@pytest.mark.parametrize("kept_in", ["default", "postgresql", "chroma", "databricks"], indirect=True)
async def test_a_crew_run_ten_times_has_the_memories_of_one_run_and_recalls_each_once(
    memories: Any, crewai: Any
) -> None:
    spec = MemorySpec(enabled=True, near_copy_similarity=0.98, recall=RecallSpec(mode=RecallMode.HYBRID, diversity=0.2))

    def record(text: str, scope: str) -> Any:
        return crewai.MemoryRecord(content=text, scope=scope)

    for number in range(10):
        run = [
            # Word for word, worded a little differently, and in two scopes.
            record("The order AB-17/3 is on its way.", "/crew/brief/agent/clerk"),
            record(f"Masts are tall{'!' * number}", "/crew/brief/agent/reader"),
            *(record("Sails are white.", f"/crew/brief/agent/{role}") for role in ("reader", "clerk")),
        ]
        await _storage(_Attempt(memories, f"execution-{number}", spec)).asave(run)
        assert len(await _scoped(memories)) == 4
    texts = sorted(text for text, _ in await _scoped(memories))
    order = "The order AB-17/3 is on its way."
    assert texts == ["Masts are tall!!!!!!!!!", "Sails are white.", "Sails are white.", order]
    # By words what no vector tells, and no text twice.
    storage, words = _storage(_Attempt(memories, "execution-11", spec)), "Which sails and masts has AB-17/3?"
    [(first, _), *others] = await asyncio.to_thread(storage.search_text, words, "/crew/brief", None, 10)
    assert first.content == order
    assert sorted(record.content for record, _ in others) == ["Masts are tall!!!!!!!!!", "Sails are white."]


async def _scoped(memories: Any) -> list[tuple[str, str]]:
    listed = (await memories.ListRecords(pb.ListRecordsRequest(namespace=place()))).records
    return [(record.unified.content, record.unified.scope) for record in listed]


async def test_a_task_done_again_removes_what_it_saved_before_and_nothing_else(memories: Any, crewai: Any) -> None:
    await _storage(_Attempt(memories, "execution-1")).asave(_records(crewai)[:1])
    await _storage(_Attempt(memories, "execution-2")).asave(_records(crewai)[:2])
    again = _storage(_Attempt(memories, "execution-2"))
    await asyncio.to_thread(again.forget_earlier_attempts)
    assert set(await _stored(memories)) == {"masts are tall"}
    await again.asave(_records(crewai)[3:])
    assert set(await _stored(memories)) == {"masts are tall", "gulls cry"}
    # What a later execution has saved too is its own as well.
    await asyncio.to_thread(_storage(_Attempt(memories, "execution-1")).forget_earlier_attempts)
    assert set(await _stored(memories)) == {"masts are tall", "gulls cry"}


async def test_a_task_done_again_removes_more_than_fits_a_page(
    memories: Any, crewai: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.orchestrator.worker.crew import memory_storage

    monkeypatch.setattr(memory_storage, "_FORGOTTEN_AT_ONCE", 1)
    await _storage(_Attempt(memories)).asave(_records(crewai)[:2])
    assert len(await _stored(memories)) == 2
    await asyncio.to_thread(_storage(_Attempt(memories)).forget_earlier_attempts)
    assert await _stored(memories) == {}


async def test_tools_that_save_side_by_side_lose_nothing(memories: Any, crewai: Any) -> None:
    storage = _storage(_Attempt(memories))

    def save(number: int) -> None:
        [record] = _records(crewai)[:1]
        record.content = f"fact {number}"
        storage.save([record])

    def save_all() -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(save, range(16)))

    await asyncio.to_thread(save_all)
    listed = (await memories.ListRecords(pb.ListRecordsRequest(namespace=place()))).records
    assert sorted(record.unified.content for record in listed) == sorted(f"fact {n}" for n in range(16))


async def test_what_models_and_roles_make_too_long_or_unstorable_does_not_cost_the_task(
    memories: Any, crewai: Any
) -> None:
    storage = _storage(_Attempt(memories))
    role = "navigator-" * 300
    [record] = _records(crewai)[:1]
    record.content = "a \x00 and a \ud800 surrogate"
    record.scope = f"/crew/{'c' * 256}/agent/{role}"
    record.categories = ["", "x" * 500, "ship", "ship", *(f"c{n}" for n in range(100))]
    await storage.asave([record])
    kept = await asyncio.to_thread(storage.get_record, record.id)
    assert kept.content == "a \N{REPLACEMENT CHARACTER} and a \N{REPLACEMENT CHARACTER} surrogate"
    assert len(kept.categories) == 64
    assert {"ship", "x" * 128} < set(kept.categories)
    for prefix in (record.scope, f"/crew/{'c' * 256}", "/crew"):
        assert await asyncio.to_thread(storage.count, prefix) == 1
    assert await asyncio.to_thread(storage.count, f"/crew/{'c' * 256}/agent/{role}other") == 0


async def test_what_has_nothing_to_see_is_neither_stored_nor_looked_for(memories: Any, crewai: Any) -> None:
    storage = _storage(_Attempt(memories))
    [record] = _records(crewai)[:1]
    record.content = " \u200b\n"
    await storage.asave([record, *_records(crewai)[:1]])
    assert set(await _stored(memories)) == {"masts are tall"}
    assert await asyncio.to_thread(storage.search_text, " \u200b", None, None, 5) == []


async def test_results_that_fill_several_messages_are_found_whole(memories: Any, crewai: Any) -> None:
    storage = _storage(_Attempt(memories))
    [record] = _records(crewai)[:1]
    for number in range(6):
        [record] = _records(crewai)[:1]
        record.content = f"{number}" + "x" * 1_000_000
        await storage.asave([record])
    found = await storage.asearch(record.embedding, limit=6)
    assert sorted(record.content[0] for record, _ in found) == list("012345")
    assert await storage.asearch(record.embedding, limit=0) == []


async def test_a_save_that_is_refused_is_an_error_of_the_task(memories: Any, crewai: Any) -> None:
    storage = _storage(_Attempt(memories))
    await storage.asave(_records(crewai)[:1])
    [record] = _records(crewai)[:1]
    record.embedding = [1.0, 0.0]
    with pytest.raises(TaskError) as refused:
        await storage.asave([record])
    assert (refused.value.reason, refused.value.fatal) == ("EMBEDDING_MISMATCH", True)


def test_a_limit_that_keeps_a_memory_from_being_saved_is_told(crewai: Any) -> None:
    from services.orchestrator.worker.crew.attempt import TaskAttempt
    from services.orchestrator.worker.crew.limits import limit_error
    from services.orchestrator.worker.crew.memory import ResultMemory

    memory = ResultMemory(llm="m", storage=cast("Any", object()), embedder=list)
    memory._attempt = TaskAttempt(cast("Any", SimpleNamespace(link=None)), 0, "read")

    def save() -> None:
        raise MemoryError

    error = memory._submit_save(save).exception()
    assert error is not None
    found = limit_error(error, CrewLimits(memory_mib=64, threads=20, open_files=64, file_mib=1))
    assert found is not None
    assert found.reason == "CREW_PROCESS_LIMIT"
