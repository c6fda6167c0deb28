"""What a crew's memory settings do in real crew processes: recall, consolidation with a model, and none without."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1.record_pb2 import Record, UnifiedRecord
from services.orchestrator.domain.crew import (
    AgentSpec,
    ConsolidationSpec,
    CrewSpec,
    MemorySpec,
    RecallMode,
    RecallSpec,
    TaskSpec,
)
from services.orchestrator.worker.host.crew_process import ForkServer
from services.orchestrator.worker.link.errors import TaskError
from tests.unit.worker.crew.scripted_host import Json, ScriptedHost, answer, said, segment, tool_call

pytestmark = pytest.mark.asyncio(loop_scope="session")

AGENT = AgentSpec("reader", "Reader", "Read closely", "You have read everything.", model="m")
TASK = TaskSpec("read", "Read about ships.", "Three facts", "reader")
OLD = "The customer prefers e-mail. Her order is AB-17/3."
NEW = "The customer prefers letters."
SCOPE = "/crew/brief/agent/reader"


def _crew(**memory: Any) -> CrewSpec:
    spec = MemorySpec(enabled=True, **memory)
    return CrewSpec("brief", (AGENT,), (TASK,), model="m", manager_model="m", planning_model="m", memory=spec)


def _record(record_id: str, content: str, scope: str = SCOPE) -> Record:
    return Record(id=record_id, revision=1, unified=UnifiedRecord(content=content, scope=scope))


def _host(
    *memories: Record,
    similarity: float = 0.9,
    plan: Json | str | Exception | None = None,
    result: str = NEW,
    handlers: Any = None,
) -> ScriptedHost:
    """Return a host that has memories, whose model answers a question about them with a plan and else with a result."""

    def reply(request: Json) -> Json:
        if request.get("response_format", {}).get("name") != "ConsolidationPlan":
            return answer(result)
        if isinstance(plan, Exception):
            raise plan
        return answer(plan if isinstance(plan, str) else json.dumps(plan))

    def search(request: pb.SearchRecordsRequest) -> pb.SearchRecordsResponse:
        found = [] if request.min_score > similarity else host.memories
        results = [pb.SearchResult(record=record, similarity=similarity, score=similarity) for record in found]
        return pb.SearchRecordsResponse(results=results[: request.limit])

    host = ScriptedHost(reply, {"search_records": search, **(handlers or {})})
    host.memories = list(memories)
    return host


def _stored(host: ScriptedHost) -> list[str]:
    return [memory.unified.content for memory in host.memories]


async def _run(server: ForkServer, host: ScriptedHost, spec: CrewSpec, attempts: int = 1) -> None:
    async with segment(server, host, spec) as run:
        for attempt in range(1, attempts + 1):
            await run.task(0, attempt=attempt)


def _action(action: str, text: str | None = None, record_id: str = "old") -> Json:
    return {"action": action, "record_id": record_id, "new_content": text}


BOTH = "The customer prefers letters to e-mail. Her order is AB-17/3."


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"actions": [_action("update", BOTH)], "insert_new": False}, [BOTH]),
        ({"actions": [_action("update", BOTH)], "insert_new": True}, [BOTH, NEW]),
        ({"actions": [_action("delete")], "insert_new": True}, [NEW]),
        ({"actions": [_action("keep")], "insert_new": False}, [OLD]),
        ({"actions": [], "insert_new": False}, [OLD]),
        # What would lose the new memory does not, and what the model was not shown stays as it is.
        ({"actions": [_action("delete")], "insert_new": False}, [NEW]),
        ({"actions": [_action("delete", record_id="other")], "insert_new": True}, [OLD, NEW]),
        # An update that cannot be carried out has written nothing of it.
        ({"actions": [_action("update", "  ")], "insert_new": False}, [OLD, NEW]),
        ({"actions": [_action("update")], "insert_new": False}, [OLD, NEW]),
        ({"actions": [_action("update", "x" * 40_000)], "insert_new": False}, [OLD, NEW]),
        ({"actions": [_action("update", BOTH, "odl")], "insert_new": False}, [OLD, NEW]),
        ({"actions": [_action("delete"), _action("update", BOTH)], "insert_new": False}, [NEW]),
        # No plan at all.
        ("I am sorry, here is none.", [OLD, NEW]),
        ({"actions": "all"}, [OLD, NEW]),
        ("", [OLD, NEW]),
        (TaskError("MODEL_REFUSED", "no", fatal=False), [OLD, NEW]),
        (TaskError("EXECUTION_LIMIT_REACHED", "enough", fatal=False), [OLD, NEW]),
    ],
)
async def test_a_model_says_what_becomes_of_memories_that_are_alike(
    fork_server: ForkServer, plan: Any, expected: list[str]
) -> None:
    host = _host(_record("old", OLD), plan=plan)
    await _run(fork_server, host, _crew(consolidation=ConsolidationSpec()))
    assert _stored(host) == expected
    asked, considered = host.calls("complete")
    assert (asked.question, asked.dispensable) == ("", False)
    assert (len(considered.question), considered.dispensable) == (64, True)
    assert all(text in said(host.requests[1]) for text in (NEW, f"content: {OLD}", "id=old"))
    compared = host.calls("search_records")[-1]
    assert (round(compared.min_score, 2), compared.limit, compared.mode) == (0.85, 5, pb.SEARCH_MODE_VECTOR)
    assert compared.filter == pb.RecordFilter(scope_prefix=SCOPE)


async def test_a_memory_that_was_changed_in_between_is_left_alone(fork_server: ForkServer) -> None:
    def save(request: pb.SaveRecordsRequest) -> pb.SaveRecordsResponse:
        if request.records[0].expected_revision:
            raise TaskError("REVISION_MISMATCH", "changed", fatal=False)
        return host._save(request)

    plan = {"actions": [_action("update", BOTH)], "insert_new": False}
    host = _host(_record("old", OLD), plan=plan, handlers={"save_records": save})
    await _run(fork_server, host, _crew(consolidation=ConsolidationSpec()))
    assert _stored(host) == [OLD, NEW]


async def test_a_memory_that_is_rewritten_keeps_all_but_its_text_and_its_end(fork_server: ForkServer) -> None:
    old = _record("old", OLD)
    old.revision, old.agent_id, old.llm_model = 7, "reader", "m"
    old.tools_used.append("calculator")
    old.unified.session_id = "session"
    old.metadata.update({"execution_id": "earlier", "customer": {"number": 17}})
    old.create_time.FromJsonString("2026-01-01T00:00:00Z")
    old.expire_time.FromJsonString("2126-01-01T00:00:00Z")
    expected = Record()
    expected.CopyFrom(old)
    # What is written into it does not expire.
    expected.ClearField("expire_time")
    old.embedding.append(1.0)
    host = _host(old, plan={"actions": [_action("update", BOTH)], "insert_new": False})
    await _run(fork_server, host, _crew(consolidation=ConsolidationSpec()))
    [[saved]] = [request.records for request in host.calls("save_records")]
    assert saved.unified.HasField("last_accessed")
    expected.unified.last_accessed.CopyFrom(saved.unified.last_accessed)
    expected.unified.content, expected.expected_revision = BOTH, 7
    expected.ClearField("revision")
    assert saved == expected


async def test_a_memory_that_was_changed_in_between_is_not_removed(fork_server: ForkServer) -> None:
    def changed(_: pb.GetRecordRequest) -> pb.GetRecordResponse:
        return pb.GetRecordResponse(record=Record(id="old", revision=2))

    plan = {"actions": [_action("delete")], "insert_new": True}
    host = _host(_record("old", OLD), plan=plan, handlers={"get_record": changed})
    await _run(fork_server, host, _crew(consolidation=ConsolidationSpec()))
    assert _stored(host) == [OLD, NEW]
    assert host.calls("delete_records") == []


async def test_another_attempt_asks_the_same_question_and_changes_nothing(fork_server: ForkServer) -> None:
    host = _host(_record("old", OLD), plan={"actions": [_action("update", BOTH)], "insert_new": False})
    await _run(fork_server, host, _crew(consolidation=ConsolidationSpec()), attempts=2)
    first, again = (call for call in host.calls("complete") if call.dispensable)
    assert first.completion != again.completion, "the memory that it quotes has been rewritten"
    assert (first.question, first.occurrence) == (again.question, again.occurrence)
    assert _stored(host) == [BOTH]
    assert [record.revision for record in host.memories] == [2]


@pytest.mark.parametrize(
    ("memory", "similarity", "stored"),
    [
        ({}, 0.99, OLD),
        ({"near_copy_similarity": 0.95}, 0.9, OLD),
        ({"near_copy_similarity": 0.95, "consolidation": ConsolidationSpec()}, 0.96, OLD),
        ({"consolidation": ConsolidationSpec(similarity=0.95)}, 0.9, OLD),
        ({"consolidation": ConsolidationSpec()}, 0.99, NEW),
        ({"consolidation": ConsolidationSpec(), "read_only": True}, 0.9, OLD),
    ],
)
async def test_no_model_is_asked_where_none_has_to_decide(
    fork_server: ForkServer, memory: Any, similarity: float, stored: str
) -> None:
    host = _host(_record("old", stored), similarity=similarity)
    await _run(fork_server, host, _crew(**memory))
    assert len(host.calls("complete")) == 1, "the agent's own call"


LONG = "\n\n".join(f"{number}. {'Ships float. ' * 400}".strip() for number in range(40))


async def test_questions_about_one_result_are_bounded(fork_server: ForkServer) -> None:
    host = _host(_record("old", OLD), plan={"actions": [], "insert_new": True}, result=LONG)
    await _run(fork_server, host, _crew(consolidation=ConsolidationSpec()))
    assert len(host.calls("complete")) == 1 + 10
    assert "".join(_stored(host)[1:]) == LONG


async def test_a_model_that_cannot_be_asked_is_not_asked_about_every_part_of_a_result(fork_server: ForkServer) -> None:
    away = TaskError("UPSTREAM_UNAVAILABLE", "down", fatal=False)
    host = _host(_record("old", OLD), plan=away, result=LONG)
    await _run(fork_server, host, _crew(consolidation=ConsolidationSpec()))
    assert len(host.calls("complete")) == 1 + 1
    assert "".join(_stored(host)[1:]) == LONG


async def test_a_part_of_a_long_result_is_no_near_copy(fork_server: ForkServer) -> None:
    plan = {"actions": [], "insert_new": True}
    host = _host(_record("old", OLD), similarity=0.96, plan=plan, result=LONG)
    await _run(fork_server, host, _crew(near_copy_similarity=0.95, consolidation=ConsolidationSpec()))
    assert len(host.calls("complete")) == 1 + 10, "saving it would not take care of that"


async def test_parts_are_saved_apart_from_what_is_held_against_near_copies(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        if any(message["role"] == "tool" for message in request["messages"]):
            return answer("Saved.")
        return tool_call("save_to_memory", {"contents": ["Before.", LONG, "After."]})

    host = _host()
    host.handlers["complete"] = reply
    await _run(fork_server, host, _crew(near_copy_similarity=0.95))
    before, parts, after, result = ([*request.records] for request in host.calls("save_records"))
    assert [[record.unified.content for record in each] for each in (before, after, result)] == [
        ["Before."],
        ["After."],
        ["Saved."],
    ]
    assert {record.metadata["parts"] for record in parts} == {len(parts)}
    assert "".join(record.unified.content for record in parts) == LONG


async def test_a_memory_that_is_only_read_is_neither_added_to_nor_touched(fork_server: ForkServer) -> None:
    host = _host(_record("old", OLD))
    await _run(fork_server, host, _crew(read_only=True))
    assert OLD in said(host.requests[0])
    assert {"save_records", "delete_records", "touch_records"}.isdisjoint(name for name, _ in host.log)
    assert _stored(host) == [OLD]


async def test_memories_are_found_as_the_crew_wants_and_no_text_twice(fork_server: ForkServer) -> None:
    twice = [_record("old", OLD), _record("again", OLD + "\n", "/crew/brief"), _record("other", "Sails are white.")]
    host = _host(*twice)
    await _run(fork_server, host, _crew(recall=RecallSpec(RecallMode.HYBRID, diversity=0.5)))
    [searched] = host.calls("search_records")
    assert (searched.mode, searched.diversity) == (pb.SEARCH_MODE_HYBRID, 0.5)
    assert searched.limit <= 200
    assert said(host.requests[0]).count(OLD) == 1
    assert "Sails are white." in said(host.requests[0])


async def test_weights_decide_what_comes_first(fork_server: ForkServer) -> None:
    def found(_: pb.SearchRecordsRequest) -> pb.SearchRecordsResponse:
        near, important = _record("a", "near"), _record("b", "important")
        important.unified.importance = 1
        results = [pb.SearchResult(record=near, similarity=0.9), pb.SearchResult(record=important, similarity=0.1)]
        return pb.SearchRecordsResponse(results=results)

    order = []
    for recall in (RecallSpec(), RecallSpec(semantic_weight=0.1, recency_weight=0.0, importance_weight=0.9)):
        host = _host(handlers={"search_records": found})
        await _run(fork_server, host, _crew(recall=recall, read_only=True))
        text = said(host.requests[0])
        order.append(text.index("near") < text.index("important"))
    assert order == [True, False]


async def test_words_are_looked_for_in_an_analysed_memory_too(fork_server: ForkServer) -> None:
    host = _host(_record("old", OLD), handlers={"list_scopes": lambda _: pb.ListScopesResponse()})

    def reply(request: Json) -> Json:
        return answer(json.dumps({"memories": []}) if request.get("response_format") else "Ships float.")

    host.handlers["complete"] = reply
    await _run(fork_server, host, _crew(analysis=True, recall=RecallSpec(RecallMode.HYBRID)))
    searches = {(searched.mode, searched.text) for searched in host.calls("search_records")}
    assert searches == {(pb.SEARCH_MODE_HYBRID, "Read about ships.")}
    assert OLD in said(host.requests[0])


async def test_what_an_agent_saves_is_consolidated_as_well(fork_server: ForkServer) -> None:
    host = _host(_record("old", OLD, "/crew/brief"), plan={"actions": [_action("update", BOTH)], "insert_new": False})
    plain: Callable[[Json], Json] = host.handlers["complete"]

    def reply(request: Json) -> Json:
        if request.get("response_format") or any(message["role"] == "tool" for message in request["messages"]):
            return plain(request)
        return tool_call("save_to_memory", {"contents": [NEW]})

    host.handlers["complete"] = reply
    await _run(fork_server, host, _crew(consolidation=ConsolidationSpec()))
    # The result is the text that was saved: what the plan says of it holds for both.
    assert _stored(host) == [BOTH]
