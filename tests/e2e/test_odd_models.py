"""What models really send reaches crews as an answer, or as what is wrong with it. On both deployments."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from coxswain.client import Client
from coxswain.models.v1 import inference_pb2, usage_pb2
from coxswain.orchestrator.v1.execution_pb2 import Execution, ExecutionState
from tests.e2e.support import BOB, MODEL, SUCCEEDED, Scene, finish, get, kinds, outputs
from tests.support.installation import Caller, Installation, wait_until
from tests.support.llm_script import Fault

_HUGE = 10**20
_GROUP_SHARE = 64
"""Calls that one group may have under way at one upstream."""


@pytest.fixture
def bob(installation: Installation) -> Iterator[Caller]:
    """An admin of another group, "legal"."""
    with installation.caller(BOB) as caller:
        yield caller


def _stream(*deltas: dict[str, Any], finish: str = "stop", usage: Any = None) -> str:
    events: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
    events.append({"choices": [{"delta": {}, "finish_reason": finish}], "usage": usage})
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def _calls(*pieces: dict[str, Any]) -> str:
    return _stream(*({"tool_calls": [piece]} for piece in pieces), finish="tool_calls")


def _counting(scene: Scene, raw_body: str, client: Client) -> tuple[Execution, list[dict[str, Any]]]:
    """Run a crew whose model first sends `raw_body`, which calls tools; return it, and what the model got then."""
    scene.answers("count", "All counted.", last_role="tool")
    scene.answers("count", raw_body=raw_body)
    crew = scene.crew("count")
    crew.agents[0].tools.add(name="calculator")
    crew.agents[0].tools.add(name="text_statistics")
    execution = client.run(crew)
    return execution, scene.calls("count")[-1].body["messages"]


def test_a_count_that_nobody_can_store_hurts_neither_its_crew_nor_others(
    scene: Scene, alice: Caller, bob: Caller
) -> None:
    usage = {
        "prompt_tokens": _HUGE,
        "completion_tokens": _HUGE,
        "completion_tokens_details": {"reasoning_tokens": _HUGE},
    }
    scene.answers("poisoned", raw_body=_stream({"content": "Ballast."}, usage=usage))
    scene.answers("clean", "Keel.")

    assert alice.orchestrator.run(scene.crew("poisoned")).result.text == "Ballast."
    for caller in (alice, bob):
        assert caller.orchestrator.run(scene.crew("clean")).result.text == "Keel."
        before = sum(row.calls for row in caller.models.usage.QueryUsage(usage_pb2.QueryUsageRequest()).rows)
        request = inference_pb2.Completion(model=MODEL)
        request.messages.add(role=inference_pb2.MESSAGE_ROLE_USER).content.add(text=scene.word("clean"))
        caller.models.inference.Complete(inference_pb2.CompleteRequest(completion=request))
        after = sum(row.calls for row in caller.models.usage.QueryUsage(usage_pb2.QueryUsageRequest()).rows)
        assert after == before + 1, "what is recorded later is counted"


def test_tool_calls_in_pieces_without_ids_and_indices_are_all_made(scene: Scene, alice: Caller) -> None:
    # Half a character and U+0000, in escapes of the arguments' own: no database takes them.
    text = json.dumps({"text": "one two \0 \ud83d"})
    body = _calls(
        {"function": {"name": "calculator", "arguments": '{"expression": "6 * 7"}'}},
        {"index": 0, "id": None, "function": {"name": "calculator", "arguments": '{"expression": "1 + 1"}'}},
        {"index": 0, "id": "s", "function": {"name": "text_statistics", "arguments": text[:5]}},
        {"index": 0, "id": "s", "function": {"name": "text_statistics", "arguments": text[5:]}},
    )

    execution, sent = _counting(scene, body, alice.orchestrator)

    assert execution.result.text == "All counted."
    made = [call for message in sent for call in message.get("tool_calls") or ()]
    results = {message["tool_call_id"]: message["content"] for message in sent if message["role"] == "tool"}
    assert [call["function"]["name"] for call in made] == ["calculator", "calculator", "text_statistics"]
    assert len({call["id"] for call in made}) == 3
    assert [results[call["id"]] for call in made[:2]] == ["42", "2"]
    assert "words" in results[made[2]["id"]]


def test_long_ids_and_what_a_provider_wants_back_go_through_a_crew(scene: Scene, alice: Caller) -> None:
    long_id = "call_" + "i" * 1200
    extra = {"google": {"thought_signature": "s" * 3000}}
    function = {"name": "calculator", "arguments": '{"expression": "6 * 7"}'}

    execution, sent = _counting(
        scene, _calls({"index": 0, "id": long_id, "extra_content": extra, "function": function}), alice.orchestrator
    )

    assert execution.result.text == "All counted."
    (made,) = [call for message in sent for call in message.get("tool_calls") or ()]
    assert (made["id"], made["extra_content"]) == (long_id, extra)
    assert sent[-1]["tool_call_id"] == long_id


def test_calls_of_one_group_that_hang_do_not_stop_anothers_crew(scene: Scene, alice: Caller, bob: Caller) -> None:
    scene.answers("hang", hang=True)
    scene.answers("work", "Done.")
    request = inference_pb2.Completion(model=MODEL)
    request.messages.add(role=inference_pb2.MESSAGE_ROLE_USER).content.add(text=scene.word("hang"))
    asked = inference_pb2.StreamCompleteRequest(completion=request)
    streams = [alice.models.inference.StreamComplete(asked) for _ in range(_GROUP_SHARE)]
    try:
        wait_until(lambda: sum(call.hanging for call in scene.calls("hang")) == _GROUP_SHARE, "all of them hang")
        assert bob.orchestrator.run(scene.crew("work")).result.text == "Done."
    finally:
        for stream in streams:
            stream.cancel()
    wait_until(lambda: not any(call.hanging for call in scene.calls("hang")), "none of them hangs")


def test_halves_of_characters_reach_the_result_as_characters(scene: Scene, alice: Caller) -> None:
    scene.answers("wave", raw_body=_stream({"content": "hi \ud83d"}, {"content": "\ude00 and \ud83d"}))
    execution = alice.orchestrator.run(scene.crew("wave"))
    assert execution.result.text == "hi 😀 and \ufffd"
    assert outputs(alice.orchestrator, execution)[0].output.text == "hi 😀 and \ufffd"


def test_thoughts_in_tags_are_no_part_of_a_result(scene: Scene, alice: Caller) -> None:
    scene.answers("muse", raw_body=_stream({"content": "<thi"}, {"content": "nk>Well.</think>"}, {"content": "Aye."}))
    events = finish(alice.orchestrator, alice.orchestrator.start(scene.crew("muse")))
    assert events[-1].execution_succeeded.result.text == "Aye."
    assert "llm_call_completed" in kinds(events)


@pytest.mark.parametrize(
    "broken",
    [
        {"text": "half a word", "error_after_chunks": 1, "error": Fault(status=502, message="The runner stopped")},
        {"text": "half a word", "drop_after_chunks": 1},
        {"fault": Fault(status=529, message="Overloaded")},
        {"fault": Fault(status=503, message="busy", sent_as=200)},
    ],
    ids=["error within", "cut", "overloaded", "error first"],
)
def test_a_stream_that_fails_once_costs_a_crew_nothing_but_time(
    scene: Scene, alice: Caller, installation: Installation, broken: dict[str, Any]
) -> None:
    scene.answers("risky", times=1, **broken)
    scene.answers("risky", "Whole.")
    execution = alice.orchestrator.run(scene.crew("risky"))
    assert (execution.state, execution.result.text) == (SUCCEEDED, "Whole.")
    assert len(scene.calls("risky")) == 2

    def lines_written() -> dict[str, Any]:
        written = [json.loads(line) for line in installation.logs.splitlines() if execution.id in line]
        return {line["event"]: line for line in written}

    # The result can be read a moment before the host has said that the execution has ended.
    wait_until(lambda: "execution_ended" in lines_written(), "the log has the end")
    lines = lines_written()
    # One of the models service, whether it asks again by itself or the crew does.
    failed = lines.get("upstream_retried") or lines["call_refused"]
    ended, accepted = lines["execution_ended"], lines["execution_accepted"]
    for name in ("execution_id", "group_id", "subject_hash"):
        assert failed[name] == ended[name] == accepted[name]
    assert failed["request_id"] == ended["request_id"] != accepted["request_id"]


def test_a_refusal_is_no_empty_success(scene: Scene, alice: Caller) -> None:
    scene.answers("refused", raw_body=_stream({"content": None}, finish="SAFETY"))
    execution = alice.orchestrator.start(scene.crew("refused"))
    events = finish(alice.orchestrator, execution)
    assert kinds(events)[-1] == "execution_failed"
    assert get(alice.orchestrator, execution).state == ExecutionState.EXECUTION_STATE_FAILED
