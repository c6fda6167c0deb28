"""Tools that the host runs itself: journaled like all others, fenced, and told in words what they cannot do."""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct
from sqlalchemy import func, select

from coxswain.memory.v1 import memory_pb2, record_pb2
from services.common.db.database import Database
from services.common.errors import CoxswainError, NotFound, Unavailable
from services.common.schema_checks.checker import SchemaChecker
from services.orchestrator.domain.artifact import CHUNK_BYTES, ArtifactLimits
from services.orchestrator.domain.crew import RecallMode, RecallSpec, ToolSpec
from services.orchestrator.domain.question import QuestionKind, QuestionState
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.repositories.artifacts import read_artifact, read_artifacts, read_chunk
from services.orchestrator.tables import artifact_upload_chunks, artifact_uploads
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_gateway.ports import StoredFile
from services.orchestrator.tool_gateway.usecases.artifact_uploads import ArtifactUploads
from services.orchestrator.tool_resolver import built_in
from services.orchestrator.worker.host.agent_tools import with_read_result
from services.orchestrator.worker.host.host_tools.base import HostTool
from services.orchestrator.worker.host.host_tools.catalogue import host_tools
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.run_store import Claim
from services.orchestrator.worker.link.errors import WAITS_FOR_PERSON, TaskError
from tests.integration.worker.call_scene import PAY, CallScene, Hostlike, call_scene
from tests.integration.worker.rows import claimed
from tests.support.played_gateway import PlayedCall, result
from tests.support.service_tables import make_service_tables

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = ArtifactLimits(file_bytes=1_000_000, execution_bytes=0, execution_files=3, group_bytes=0)
OWN = sorted(name for name, tool in TOOLS.items() if tool.in_host)
CONFIG: dict[str, Any] = {"kind": "unified", "memory_id": "m", "scope": "/handbook", "document_ids": ["law.pdf"]}


class Memory:
    """Memories that answer as they are told."""

    def __init__(self) -> None:
        self.requests: list[memory_pb2.SearchRecordsRequest] = []
        self.records: list[record_pb2.Record] = []
        self.error: Exception | None = None
        self.enabled = True
        self.recall = RecallSpec(RecallMode.HYBRID, diversity=0.5)

    async def own(self) -> Any:
        return self if self.enabled else None

    def named(self, namespace: memory_pb2.Namespace) -> Any:
        return self

    def agents_of(self, role: str) -> frozenset[str]:
        return frozenset({"clerk"} if role == "Clerk" else ())

    async def search_records(self, request: memory_pb2.SearchRecordsRequest) -> memory_pb2.SearchRecordsResponse:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        results = [memory_pb2.SearchResult(record=record, similarity=0.75, score=0.5) for record in self.records]
        return memory_pb2.SearchRecordsResponse(results=results)

    search_knowledge = search_records


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(shared_database_url: str) -> AsyncIterator[Database]:
    make_service_tables("orchestrator", shared_database_url)
    opened = Database(shared_database_url, "orchestrator")
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checker() -> AsyncIterator[SchemaChecker]:
    made = SchemaChecker()
    yield made
    await made.close()


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(database: Database, checker: SchemaChecker, memory: Memory) -> AsyncIterator[CallScene]:
    async with call_scene(database, checker) as played:

        def tools(claim: Claim, recorder: Recorder) -> Mapping[str, HostTool]:
            files = played.files(claim, recorder)
            return host_tools(files, cast("Any", memory), partial(played.store.tool_result, claim.execution.id))

        played.host_tools, played.artifact_limits = tools, LIMITS
        own = [built_in(TOOLS[name], ToolSpec(name, CONFIG if name == "document_search" else {})) for name in OWN]
        played.tools = [*own, replace(PAY, result_limit=1000)]
        yield played


async def ask(host: Hostlike, key: str, tool: str, /, **arguments: Any) -> str:
    """Call a tool of the host that does what it is asked."""
    answer = await host.call(key, str(OWN.index(tool)), **arguments)
    assert not answer.error, answer.error
    return answer.output


async def refusal(host: Hostlike, key: str, tool: str, /, **arguments: Any) -> str:
    answer = await host.call(key, str(OWN.index(tool)), **arguments)
    assert not answer.output
    return answer.error


async def test_agents_write_read_and_list_files(scene: CallScene) -> None:
    host = await scene.host()
    assert await ask(host, "0", "file_list", prefix="") == "there are no files"
    assert await ask(host, "1", "file_write", name="notes/a.md", content="One.") == 'stored "notes/a.md", 4 bytes'
    told = await ask(host, "2", "file_write", name="./notes/a.md", content="Two, and more.")
    assert told == 'replaced the content of "notes/a.md", 14 bytes'
    assert "already" in await ask(host, "3", "file_write", name="notes/a.md", content="Two, and more.")
    await ask(host, "4", "file_write", name="odd.md", content="a\0b\ud83d")
    assert await ask(host, "5", "file_read", name="notes/a.md") == "Two, and more."
    assert await ask(host, "6", "file_read", name="notes/a.md", start=5) == "and more."
    assert await ask(host, "7", "file_read", name="odd.md") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    listed = await ask(host, "8", "file_list", prefix="")
    assert listed.splitlines() == ["notes/a.md (text/markdown, 14 bytes)", "odd.md (text/markdown, 8 bytes)"]
    stored = await read_artifact(scene.database, "sales", scene.execution_id, "notes/a.md")
    row = (await scene.rows())["2"]
    assert stored is not None
    assert (stored.revision, stored.call_id) == (2, row.call_id)
    assert (row.state, row.idempotent) == (ToolCallState.COMPLETED, True)
    assert not scene.gateway.requests, "the gateway has no part in it"
    assert host.usage.value.tool_calls == 9
    await host.die()

    again = await scene.host()
    assert await ask(again, "1", "file_write", name="notes/a.md", content="One.") == 'stored "notes/a.md", 4 bytes'
    assert await ask(again, "9", "file_read", name="notes/a.md") == "Two, and more.", "replayed, not written again"
    assert len(await read_artifacts(scene.database, scene.execution_id)) == 2


async def test_names_limits_and_missing_files_are_told_to_the_model(scene: CallScene) -> None:
    host = await scene.host()
    for number, name in enumerate(("../a", "/etc/passwd", "con", "a\0", "a\\b", "a/./b", "\ud800", "a" * 256)):
        told = await refusal(host, f"w{number}", "file_write", name=name, content="x")
        assert told
        assert not (await scene.rows())[f"w{number}"].output
        assert await refusal(host, f"r{number}", "file_read", name=name)
    assert "name" in await refusal(host, "long", "file_write", name="a" * 10_000, content="x")
    assert 'there is no file "b"; there are no files yet' in await refusal(host, "b", "file_read", name="b")
    for number in range(3):
        await ask(host, f"n{number}", "file_write", name=f"f{number}", content="x")
    assert "limit of 3 files" in await refusal(host, "n3", "file_write", name="f3", content="x")
    assert "cannot lie beside" in await refusal(host, "n4", "file_write", name="F0", content="x")
    assert "the files are: f0, f1, f2" in await refusal(host, "c", "file_read", name="c")
    assert "ends before character 7" in await refusal(host, "d", "file_read", name="f0", start=7)
    # What does not follow the schema costs no call.
    for key, name, arguments in (
        ("s1", "file_write", {"name": "a"}),
        ("s2", "file_read", {"name": "a", "start": -1}),
        ("s3", "file_write", {"name": "a", "content": 5}),
        ("s4", "memory_search", {"query": ""}),
        ("s5", "ask_person", {"question": "Which?", "choices": ["a"]}),
    ):
        assert "schema" in await refusal(host, key, name, **arguments)
        assert key not in await scene.rows()


async def test_a_file_that_is_longer_than_a_model_gets_is_read_in_pages(scene: CallScene) -> None:
    host = await scene.host()
    text = "übermäßig " * 20_000
    await ask(host, "w", "file_write", name="long", content=text)
    read = ""
    for number in range(10):
        page = await ask(host, f"r{number}", "file_read", name="long", start=len(read))
        body, _, note = page.partition("\n[The file goes on")
        assert len(page.encode()) <= 65536
        read += body
        if not note:
            break
        assert f"start {len(read)} " in note
    assert read == text


async def test_a_long_result_of_a_tool_is_read_on(scene: CallScene) -> None:
    long = "äpfel und birnen, " * 1000

    async def pay(call: PlayedCall) -> Any:
        scene.gateway.did(call)
        return result(long)

    scene.gateway.tools["billing/pay"] = pay
    host = await scene.host()
    shown = (await host.call("k", str(len(OWN)))).output
    body, _, note = shown.partition("\n[The result has ")
    assert long.startswith(body)
    handle = (await scene.rows())["k"].call_id
    assert f'read_result, handle "{handle}", start {len(body)}.' in note
    page = await ask(host, "r", "read_result", handle=handle, start=len(body))
    assert page == long[len(body) :]
    assert "no result of that handle" in await refusal(host, "r2", "read_result", handle="x")
    assert f"{len(long):,} characters" in await refusal(host, "r3", "read_result", handle=handle, start=len(long))
    scene.execution_id = ""
    elsewhere = await scene.host()
    assert "no result" in await refusal(elsewhere, "r", "read_result", handle=handle), "another execution's"


async def test_files_that_a_tool_has_made_become_the_executions(scene: CallScene) -> None:
    scene.artifact_limits = replace(LIMITS, execution_files=4, file_bytes=0)
    big = bytes(range(256)) * 2000
    made = [
        StoredFile("charts/chart.png", "image/png", big),
        StoredFile("../../etc/CON", "no type", b""),
        StoredFile("chart.png", "image/png", b"other"),
    ]
    uploads = ArtifactUploads(scene.database, max_bytes=1_000_000)

    async def draw(call: PlayedCall) -> Any:
        scene.gateway.did(call)
        order = SimpleNamespace(execution_id=scene.execution_id, principal=SimpleNamespace(group_id="sales"))
        outcome = result("drawn", structured_json='{"a": 1}')
        outcome.result.artifact_ids.extend(await uploads.keep(cast("Any", order), tuple(made)))
        return outcome

    scene.gateway.tools["billing/pay"] = draw
    host = await scene.host()
    told = (await host.call("k", str(len(OWN)))).output
    assert told.splitlines() == [
        '{"a": 1}',
        "[File chart.png: image/png, 512,000 bytes]",
        "[File file-CON: application/octet-stream, 0 bytes]",
        "[File chart-2.png: image/png, 5 bytes]",
    ]
    files = {one.name: one for one in await read_artifacts(scene.database, scene.execution_id)}
    call_id = (await scene.rows())["k"].call_id
    assert {one.call_id for one in files.values()} == {call_id}
    chunks = [await read_chunk(scene.database, files["chart.png"].id, position) for position in range(3)]
    assert chunks == [big[:CHUNK_BYTES], big[CHUNK_BYTES:], None]
    assert (await scene.events("artifact_stored"))[0].sha256 == hashlib.sha256(big).hexdigest()
    told = (await host.call("l", str(len(OWN)))).output
    assert "[File chart-3.png" in told
    assert "[A file was not kept: the limit of 4 files" in told
    # One that was stored by a host that died right after is named by the next one.
    again = scene.files(await claimed(scene.store, scene.execution_id), host.recorder)
    kept, told = await again.take_over(host.journal.task, call_id, ["x", "y", "z", "gone"])
    assert {one.name for one in kept} == {"chart.png", "file-CON", "chart-2.png"}
    assert told == "1 of 4 files are not there any more"
    # What was refused takes no room, and so does what nobody takes.
    async with scene.database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(artifact_upload_chunks))).scalar_one() == 0
    order = SimpleNamespace(execution_id=scene.execution_id, principal=SimpleNamespace(group_id="sales"))
    await uploads.keep(cast("Any", order), tuple(made))
    await uploads.forget(-60)
    async with scene.database.read() as connection:
        for table in (artifact_uploads, artifact_upload_chunks):
            assert (await connection.execute(select(func.count()).select_from(table))).scalar_one() == 0


async def test_files_are_kept_for_executions_of_the_callers_group_alone(scene: CallScene) -> None:
    await scene.host()
    uploads, file = ArtifactUploads(scene.database, max_bytes=10), StoredFile("a", "text/plain", b"x")
    for execution, group, files, told in (
        ("", "sales", [file], "only executions"),
        (scene.execution_id, "legal", [file], "not there"),
        (scene.execution_id, "sales", [file] * 33, "32 files"),
        (scene.execution_id, "sales", [replace(file, content=b"x" * 11)], "10 bytes"),
    ):
        order = SimpleNamespace(execution_id=execution, principal=SimpleNamespace(group_id=group))
        with pytest.raises(CoxswainError, match=told):
            await uploads.keep(cast("Any", order), tuple(files))


async def test_only_agents_with_tools_of_the_gateway_get_the_one_that_reads_on() -> None:
    own = built_in(TOOLS["file_read"], ToolSpec("file_read"))
    assert with_read_result([own]) == [own]
    assert [tool.name for tool in with_read_result([own, PAY])] == ["file_read", "billing/pay", "read_result"]
    named = [PAY, built_in(TOOLS["read_result"], ToolSpec("read_result"))]
    assert with_read_result(named) == named


async def test_memories_are_searched(scene: CallScene, memory: Memory) -> None:
    host = await scene.host()
    memory.records = [
        record_pb2.Record(unified=record_pb2.UnifiedRecord(content="Ann keeps the light.")),
        record_pb2.Record(
            document=record_pb2.DocumentRecord(content="For others.", source="s", agent_ids=["somebody"])
        ),
        record_pb2.Record(
            document=record_pb2.DocumentRecord(
                content="For clerks.",
                source="s",
                agent_ids=["clerk"],
                parent_document_id="law.pdf",
                title="Law",
                section="Fees",
                page=7,
            )
        ),
    ]
    found = json.loads(await ask(host, "a", "memory_search", query="who\0", limit=2))
    assert found[0] == {"content": "Ann keeps the light.", "score": 0.5}
    assert memory.requests[-1] == memory_pb2.SearchRecordsRequest(
        text="who\N{REPLACEMENT CHARACTER}", limit=2, mode=memory_pb2.SEARCH_MODE_HYBRID, diversity=0.5
    )
    for mode, told in ((RecallMode.TEXT, {"score": 0.5}), (RecallMode.VECTOR, {"similarity": 0.75})):
        memory.recall = RecallSpec(mode)
        host = await scene.host()
        found = json.loads(await ask(host, mode, "memory_search", query="who"))
        assert found[0] == {"content": "Ann keeps the light.", **told}
    metadata: dict[str, Any] = {"year": 2026, "kind": "rule", "old": False}
    found = json.loads(await ask(host, "b", "document_search", query="who", limit=2, metadata=metadata))
    assert [(one["content"], one["similarity"]) for one in found] == [
        ("Ann keeps the light.", 0.75),
        ("For clerks.", 0.75),
    ]
    named = {name: found[1][name] for name in ("document", "title", "section", "page", "source")}
    assert named == {"document": "law.pdf", "title": "Law", "section": "Fees", "page": 7, "source": "s"}
    asked = memory.requests[-1]
    assert [value.text for value in asked.filter.conditions[0].values] == ["law.pdf"]
    assert asked.namespace == memory_pb2.Namespace(memory_id="m", kind=record_pb2.MEMORY_KIND_UNIFIED)
    assert asked.filter.scope_prefix == "/handbook"
    expected = Struct()
    expected.update(metadata)
    assert dict(asked.filter.metadata) == dict(expected.fields)
    memory.records = []
    assert await ask(host, "c", "memory_search", query="who") == "nothing was found"
    memory.error = NotFound.of("memory", "m")
    assert 'no memory "m"' in await refusal(host, "d", "document_search", query="who")
    memory.error = Unavailable("memory does not answer")
    assert "does not answer" in await refusal(host, "e", "memory_search", query="who")
    assert (await scene.rows())["e"].reason == "DEPENDENCY_UNAVAILABLE"
    memory.enabled = False
    assert "no memory" in await refusal(host, "f", "memory_search", query="who")


async def test_a_person_is_asked_and_the_call_goes_on_with_the_answer(scene: CallScene) -> None:
    host = await scene.host()
    question = {"question": "Which harbour?", "choices": ["Kiel", "Brest"]}
    for number, (state, content) in enumerate(
        ((QuestionState.ACCEPTED, {"answer": "Brest"}), (QuestionState.DECLINED, None))
    ):
        with pytest.raises(TaskError) as waits:
            await ask(host, f"k{number}", "ask_person", **question)
        assert waits.value.reason == WAITS_FOR_PERSON
        asked = (await scene.questions())[-1]
        assert (asked.kind, asked.state, asked.text) == (QuestionKind.FORM, QuestionState.OPEN, "Which harbour?")
        assert asked.schema is not None
        assert asked.schema["properties"]["answer"]["enum"] == ["Kiel", "Brest"]
        assert asked.schema["required"] == ["answer"]
        await scene.answer(asked, state, content)
        await host.die()
        host = await scene.host()
        if state is QuestionState.ACCEPTED:
            assert await ask(host, f"k{number}", "ask_person", **question) == "Brest"
        else:
            assert "declined to answer" in await refusal(host, f"k{number}", "ask_person", **question)
    assert len(await scene.questions()) == 2


async def test_every_tool_of_the_catalogue_that_is_the_hosts_is_there() -> None:
    made = host_tools(cast("Any", None), cast("Any", Memory()), cast("Any", None))
    assert sorted(made) == OWN
    assert all(TOOLS[name].idempotent and not TOOLS[name].in_crew_process for name in OWN)
