"""Calls at agents over real gRPC: what arrives, what people are asked, what is sent once, what odd answers become."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2 as old_pb
from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format

from services.common.backoff import Backoff
from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied, Unavailable
from services.common.grpc.json_values import to_struct, to_value
from services.orchestrator.domain.tool_source import A2AAgent, AuthKind, SourceAuth
from services.orchestrator.tool_gateway.adapters.a2a import task_follower, task_questions
from services.orchestrator.tool_gateway.adapters.a2a.adapter import A2AAdapter
from services.orchestrator.tool_gateway.adapters.a2a.sent_message import SentMessage
from services.orchestrator.tool_gateway.ports import (
    CallRefused,
    NotSent,
    OutcomeUnknown,
    SourceAnswer,
    SourceQuestion,
    StillAsked,
    ToolResult,
)
from services.orchestrator.tool_identity import listed_hash
from tests.support.a2a_agent import EmulatedAgent, agent_source, artifact, becomes, served, text
from tests.support.tool_adapters import RecordingApi, egress_of
from tests.support.tool_provider import (
    LOOPBACK,
    PUBLIC_ONLY,
    GivenHeaders,
    RecordedProgress,
    call_of,
    principal,
    write_authority,
)
from tests.support.waiting import until

DONE = becomes("COMPLETED", artifacts=[artifact(text("A brief."))])
TOKEN = "marked-token-5c1e0a77"
ASK = {"message": "Brief me on ships."}


@contextlib.asynccontextmanager
async def adapter(policy: Any = LOOPBACK, **options: Any) -> AsyncIterator[A2AAdapter]:
    values = {"connect_seconds": 30.0, "look_up_seconds": 0.5, "max_result_bytes": 1024 * 1024} | options
    async with egress_of(policy) as egress:
        made = A2AAdapter(egress, policy, values.pop("credentials", GivenHeaders()), **values)
        try:
            yield made
        finally:
            await made.close()


async def called(
    agent: EmulatedAgent, progress: RecordedProgress | None = None, arguments: Mapping[str, Any] = ASK, **options: Any
) -> ToolResult:
    async with served(agent) as port, adapter(**options) as calls:
        request = call_of(agent_source(f"127.0.0.1:{port}"), tool="brief", arguments=dict(arguments))
        return await calls.call(request, progress or RecordedProgress())


def accepting(**content: Any) -> SourceAnswer:
    return SourceAnswer("accept", content)


# Cards


async def test_each_skill_is_a_tool_with_what_it_takes() -> None:
    schema = {"type": "object", "properties": {"topic": {}}, "required": ["topic"]}
    inputs = pb.AgentExtension(uri="https://example.com/inputs/v1", params=to_struct({"schema": schema}))
    skills = [
        pb.AgentSkill(id="brief", name="Brief", description="Briefs you.\u202e", examples=["On ships", "On trains"]),
        pb.AgentSkill(id="a skill/with odd id", name="Odd", input_modes=["text/markdown"]),
        pb.AgentSkill(id="fill", name="Fill", input_modes=["application/json"]),
    ]
    agent = EmulatedAgent(
        skills=skills, capabilities=pb.AgentCapabilities(streaming=True, extensions=[inputs], extended_agent_card=True)
    )
    async with served(agent) as port, adapter() as calls:
        spec = agent_source(f"127.0.0.1:{port}", tenant="t-1")
        brief, odd, fill = await calls.list_tools(spec, principal())
    assert (brief.name, brief.title, odd.name, fill.name) == ("brief", "Brief", "a_skill_with_odd_id", "fill")
    assert brief.description.startswith("Briefs you.\nIt is done by the agent Partner of another system")
    assert brief.description.endswith("Example: On ships\nExample: On trains")
    assert set(brief.arguments_schema["properties"]) == {"message", "data"}
    assert (brief.arguments_schema["required"], odd.arguments_schema["required"]) == ([], ["message"])
    assert fill.arguments_schema["properties"]["data"]["required"] == ["topic"]
    assert brief.call == f"http://127.0.0.1:{port}"
    assert brief.idempotent_hint is None
    assert agent.requests[0].tenant == "t-1"
    assert agent.metadata[0]["a2a-version"] == "1.0"


async def test_an_agent_without_skills_is_one_tool() -> None:
    agent = EmulatedAgent(skills=[])
    async with served(agent) as port, adapter() as calls:
        (tool,) = await calls.list_tools(agent_source(f"127.0.0.1:{port}"), principal())
    assert tool.name == "send_message"
    assert tool.description.startswith("Briefs you.")


def document_03(url: str, transport: str = "GRPC", **fields: Any) -> dict[str, Any]:
    return {
        "protocolVersion": "0.3.0",
        "name": "Old",
        "description": "Old.",
        "url": url,
        "preferredTransport": transport,
        "version": "1",
        "capabilities": {"streaming": True, "stateTransitionHistory": False},
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        "skills": [{"id": "brief", "name": "Brief", "description": "Briefs.", "tags": [], "security": []}],
        **fields,
    }


async def test_cards_of_both_versions_are_read_over_http() -> None:
    agent = EmulatedAgent()
    async with served(agent) as port, RecordingApi() as api, adapter() as calls:
        address = f"127.0.0.1:{port}"
        agent.card.supported_interfaces.add(url="https://other.example.com", protocol_binding="JSONRPC")
        agent.card.supported_interfaces.add(
            url=f"http://{address}", protocol_binding="GRPC", protocol_version="1.0", tenant="t-2"
        )
        api.answer("/card.json", json_format.MessageToJson(agent.card))
        api.answer("/old.json", json.dumps(document_03("https://127.0.0.1:1/rpc", "JSONRPC")))
        (tool,) = await calls.list_tools(agent_source(card_url=f"{api.url}/card.json"), principal())
        assert (tool.name, tool.call) == ("brief", f"http://{address}")
        # The extended card is asked for where the public one says that there is one.
        assert [request.tenant for request in agent.requests] == ["t-2"]
        agent.refusals["GetExtendedAgentCard"] = grpc.StatusCode.FAILED_PRECONDITION
        spec = agent_source(address, card_url=f"{api.url}/old.json")
        (old,) = await calls.list_tools(spec, principal())
        assert (old.name, old.call) == ("brief", f"http://{address}")
        assert [request.header("a2a-version") for request in api.requests] == [[], []]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "not usable JSON"),
        ("[]", "not a JSON object"),
        ("{}", "has no name"),
        (json.dumps({"name": "A", "supportedInterfaces": 7}), "no agent card of A2A"),
        (json.dumps({"name": "A", "supportedInterfaces": []}), "names no interface"),
        (json.dumps(document_03("grpc.example.com:443", protocolVersion="0.2.6")), "its card names GRPC 0.2.6"),
        (json.dumps(document_03("https://example.com", "HTTP+JSON")), "its card names HTTP[+]JSON 0.3.0"),
        (
            json.dumps(
                {
                    "name": "A",
                    "supportedInterfaces": [{"url": "a b", "protocolBinding": "GRPC", "protocolVersion": "1.0"}],
                }
            ),
            "is not HOST:PORT",
        ),
        (
            json.dumps(
                {
                    "name": "A",
                    "supportedInterfaces": [
                        {"url": "example.com", "protocolBinding": "GRPC", "protocolVersion": "1.0"}
                    ],
                    "skills": [{"id": "a b"}, {"id": "a_b"}],
                }
            ),
            "two skills",
        ),
    ],
)
async def test_a_card_that_cannot_be_used_says_why(document: str, said: str) -> None:
    async with RecordingApi() as api, adapter() as calls:
        api.answer("/card.json", document)
        with pytest.raises(FailedPrecondition, match=said):
            await calls.list_tools(agent_source(card_url=f"{api.url}/card.json"), principal())


@pytest.mark.parametrize(
    ("skills", "schema_bytes", "described", "said"),
    [
        (1, 300_000, 0, "schema of inputs"),
        (512, 60_000, 0, "tools of the agent card are larger"),
        (1, 0, 1_100_000, "agent card is larger"),
    ],
)
async def test_a_card_that_would_fill_the_memory_is_refused(
    skills: int, schema_bytes: int, described: int, said: str
) -> None:
    schema = {"type": "object", "description": "x" * schema_bytes}
    inputs = pb.AgentExtension(uri="https://example.com/inputs/v1", params=to_struct({"schema": schema}))
    agent = EmulatedAgent(
        skills=[pb.AgentSkill(id=f"skill-{number}", description="y" * described) for number in range(skills)],
        capabilities=pb.AgentCapabilities(extensions=[inputs], extended_agent_card=True),
    )
    async with served(agent) as port, adapter(max_result_bytes=4 * 1024 * 1024) as calls:
        with pytest.raises(FailedPrecondition, match=said):
            await calls.list_tools(agent_source(f"127.0.0.1:{port}"), principal())


async def test_addresses_that_groups_may_not_call_are_not_called() -> None:
    agent = EmulatedAgent()
    async with served(agent) as port, RecordingApi() as api:
        agent.card.supported_interfaces.add(url=f"127.0.0.1:{port}", protocol_binding="GRPC", protocol_version="1.0")
        async with adapter(PUBLIC_ONLY) as calls:
            for spec in (agent_source(f"127.0.0.1:{port}"), agent_source(card_url=f"{api.url}/card.json")):
                with pytest.raises(PermissionDenied) as refused:
                    await calls.list_tools(spec, principal())
                assert refused.value.reason == "DESTINATION_NOT_ALLOWED"
    assert (api.requests, agent.requests) == ([], [])


# What arrives and what comes back


async def test_a_message_is_sent_and_its_task_followed_to_the_result() -> None:
    agent, progress = EmulatedAgent(), RecordedProgress()
    async with served(agent) as port, adapter() as calls:
        spec = agent_source(f"127.0.0.1:{port}")
        (listed,) = await calls.list_tools(spec, principal())
        request = call_of(
            spec,
            tool="brief",
            arguments={"message": "Brief me on \U0001f6a2.", "data": {"deep": [None, {"n": 1.5}], "n": 7}},
            tool_hash=listed_hash(listed),
        )
        calling = asyncio.create_task(calls.call(request, progress))
        await agent.seen(1)
        agent.move("task-1", "WORKING", text("half way"))
        await until(lambda: "half way" in progress.texts)
        agent.move("task-1", "COMPLETED", artifacts=[artifact(text("A brief."), text("Its end."))])
        returned = await calling
    assert (returned.text, returned.structured, returned.is_error) == ("A brief.\n\nIts end.", None, False)
    (message,) = agent.messages
    assert [part.WhichOneof("content") for part in message.parts] == ["text", "data"]
    assert json_format.MessageToDict(message.parts[1].data) == {"deep": [None, {"n": 1.5}], "n": 7}
    sent = next(one for one in agent.requests if isinstance(one, pb.SendMessageRequest))
    assert sent.configuration.return_immediately
    assert dict(sent.metadata) == {"skill": "brief"}
    # Who calls, from where and for whom is told to nobody.
    assert "sales" not in str(agent.metadata) + str(agent.requests)
    assert "ann" not in str(agent.metadata)
    before, after = map(SentMessage.from_handle, progress.handles)
    assert before is not None
    assert after == replace(before, task_id="task-1")
    assert (before.message_id, progress.sent_count) == (message.message_id, 1)


async def test_data_comes_as_json_and_files_as_files() -> None:
    parts = [
        pb.Part(data=to_value({"total": 12, "seen": TOKEN})),
        text("In words."),
        pb.Part(raw=b"%PDF", filename="../brief.pdf", media_type="application/pdf"),
        pb.Part(url="https://files.example.com/more.pdf", filename="more.pdf"),
    ]
    agent = EmulatedAgent(send=becomes("COMPLETED", artifacts=[artifact(*parts)]))
    returned = await called(agent)
    assert returned.structured == {"total": 12, "seen": TOKEN}
    assert returned.text.startswith("{")
    assert returned.text.endswith("In words.\n[more.pdf is at https://files.example.com/more.pdf; it was not fetched.]")
    assert [(file.name, file.media_type, file.content) for file in returned.files] == [
        ("brief.pdf", "application/pdf", b"%PDF")
    ]


async def test_an_answer_without_a_task_is_the_result() -> None:
    async def answer(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        return pb.SendMessageResponse(message=pb.Message(message_id="m", role=pb.ROLE_AGENT, parts=[text("Hello.")]))

    assert await called(EmulatedAgent(send=answer)) == ToolResult("Hello.")


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_is_followed_with_and_without_streams(streaming: bool) -> None:
    agent = EmulatedAgent(streaming=streaming)
    async with served(agent) as port, adapter() as calls:
        calling = asyncio.create_task(
            calls.call(call_of(agent_source(f"127.0.0.1:{port}"), tool="brief", arguments=ASK), RecordedProgress())
        )
        await agent.seen(1)
        agent.move("task-1", "COMPLETED", text("Said in the status."))
        assert (await calling).text == "Said in the status."
    assert any(isinstance(one, pb.SubscribeToTaskRequest) for one in agent.requests) <= streaming


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("FAILED", "The agent failed: Out of ink."),
        ("REJECTED", "The agent does not do this: Out of ink."),
        ("CANCELED", "The task was cancelled at the agent: Out of ink."),
    ],
)
async def test_how_a_task_ends_without_a_result_is_told_to_the_model(state: str, said: str) -> None:
    returned = await called(EmulatedAgent(send=becomes(state, text("Out of ink."))))
    assert returned == ToolResult(said, is_error=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "there is nothing to send"),
        ({"message": "half \ud800"}, "no text can hold"),
        ({"data": {"n": 2**53 + 1}}, "beyond 2.53"),
        ({"message": "x" * (1024 * 1024 + 1)}, "larger than"),
    ],
)
async def test_what_cannot_be_sent_as_it_is_is_refused_before(arguments: Mapping[str, Any], said: str) -> None:
    agent, progress = EmulatedAgent(), RecordedProgress()
    with pytest.raises(CallRefused, match=said) as refused:
        await called(agent, progress, arguments)
    assert refused.value.reason == "TOOL_ARGUMENTS"
    assert (agent.messages, progress.sent_count) == ([], 0)


# Questions


@pytest.mark.parametrize(
    ("state", "parts", "schema", "content", "sent"),
    [
        ("INPUT_REQUIRED", [text("Which year?")], {"answer"}, {"answer": "2026"}, text("2026")),
        (
            "INPUT_REQUIRED",
            [text("Missing."), pb.Part(data=to_value({"missing": [{"name": "year", "description": "of the brief"}]}))],
            {"year"},
            {"year": "2026"},
            pb.Part(data=to_value({"year": "2026"})),
        ),
        (
            "INPUT_REQUIRED",
            [
                text("Good?"),
                pb.Part(
                    data=to_value(
                        {"schema": {"type": "object", "properties": {"approved": {"type": "boolean"}}, "required": []}}
                    )
                ),
            ],
            {"approved"},
            {"approved": True},
            pb.Part(data=to_value({"approved": True})),
        ),
        # A form that is none is asked for in words.
        (
            "INPUT_REQUIRED",
            [text("Deep?"), pb.Part(data=to_value({"schema": {"properties": {"a": {"type": "object"}}}}))],
            {"answer"},
            {"answer": "no"},
            text("no"),
        ),
        (
            "AUTH_REQUIRED",
            [text("Renew your token.")],
            set(),
            {},
            text("What the task waits for has been done; go on."),
        ),
    ],
)
async def test_what_an_agent_asks_is_asked_of_a_person_and_answered_by_a_message(
    state: str, parts: list[pb.Part], schema: set[str], content: dict[str, Any], sent: pb.Part
) -> None:
    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        return await (DONE if request.message.task_id else becomes(state, *parts))(agent, request, context)

    agent, progress = EmulatedAgent(send=turns), RecordedProgress(accepting(**content))
    returned = await called(agent, progress)
    assert returned.text == "A brief."
    (question,) = progress.questions
    assert question.schema is not None
    assert (question.text, set(question.schema["properties"])) == (parts[0].text, schema)
    first, second = agent.messages
    assert (second.task_id, second.context_id, second.role) == ("task-1", "context-1", pb.ROLE_USER)
    assert second.message_id not in ("", first.message_id)
    (answer,) = second.parts
    assert (answer.text, answer.data) == (sent.text, sent.data)


async def test_an_authorization_that_is_given_at_an_address_is_a_question_with_the_address() -> None:
    url = "https://login.example.com/grant?for=1"
    asks = becomes("AUTH_REQUIRED", text("Log in."), pb.Part(data=to_value({"url": url})))

    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        return await (DONE if request.message.task_id else asks)(agent, request, context)

    progress = RecordedProgress(accepting())
    assert (await called(EmulatedAgent(send=turns), progress)).text == "A brief."
    assert [(one.text, one.url, one.schema) for one in progress.questions] == [("Log in.", url, None)]


async def test_an_answer_that_the_agent_refuses_is_asked_for_again_with_its_reason() -> None:
    asks = becomes("INPUT_REQUIRED", text("Which year?"))

    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        if len(agent.messages) == 1:
            response = await asks(agent, request, context)
            before.CopyFrom(response.task.status)
            return response
        if len(agent.messages) < 4:
            agent.tasks["task-1"].status.CopyFrom(before)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a year has four digits")
        return await DONE(agent, request, context)

    before = pb.TaskStatus()
    progress = RecordedProgress(accepting(answer="26"), accepting(answer="226"), accepting(answer="2026"))
    assert (await called(EmulatedAgent(send=turns), progress)).text == "A brief."
    again = "The agent did not take the last answer: a year has four digits\nWhich year?"
    assert [one.text for one in progress.questions] == ["Which year?", again, again]
    # Each is a question of its own, also where it has the words of the one before.
    assert len({one.key for one in progress.questions}) == 3


@pytest.mark.parametrize(
    ("code", "said", "sends"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (5 vs. 4)", 1),
        (grpc.StatusCode.INTERNAL, "out of luck", 5),
    ],
)
async def test_an_answer_that_will_not_be_taken_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode, said: str, sends: int
) -> None:
    asks = becomes("INPUT_REQUIRED", text("Which year?"))

    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        if len(agent.messages) == 1:
            response = await asks(agent, request, context)
            before.CopyFrom(response.task.status)
            return response
        if request.message.parts[0].text == "long":
            agent.first.status.CopyFrom(before)
            await context.abort(code, said)
        return await DONE(agent, request, context)

    before = pb.TaskStatus()
    monkeypatch.setattr(task_questions, "_RESEND", Backoff(0, 0))
    agent, progress = EmulatedAgent(send=turns), RecordedProgress(accepting(answer="long"), accepting(answer="2026"))
    assert (await called(agent, progress)).text == "A brief."
    assert [one.parts[0].text for one in agent.messages[1:]] == ["long"] * sends + ["2026"]
    assert progress.questions[1].text == f"The agent did not take the last answer: {said}\nWhich year?"


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_question_in_the_same_words_is_asked_again(streaming: bool) -> None:
    """Its status is the same to the last bit: what tells it apart is that the task went on between the two."""
    asks = pb.TaskStatus(
        state=pb.TASK_STATE_INPUT_REQUIRED,
        message=pb.Message(message_id="said", role=pb.ROLE_AGENT, parts=[text("Go on?")]),
    )

    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        if len(agent.messages) == 3:
            return await DONE(agent, request, context)
        working = pb.SendMessageResponse.FromString(
            (await becomes("WORKING")(agent, request, context)).SerializeToString()
        )
        agent.tasks["task-1"].status.CopyFrom(asks)
        return working

    agent, progress = EmulatedAgent(send=turns, streaming=streaming), RecordedProgress(*[accepting(answer="yes")] * 2)
    assert (await called(agent, progress)).text == "A brief."
    assert len({one.key for one in progress.questions}) == 2
    assert len({message.message_id for message in agent.messages}) == 3


async def test_another_question_is_seen_while_the_stream_stays_open() -> None:
    asks = becomes("INPUT_REQUIRED", text("Which year?"))

    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        if len(agent.messages) == 3:
            return await DONE(agent, request, context)
        if len(agent.messages) == 1:
            return await asks(agent, request, context)
        agent.tasks["task-1"].status.CopyFrom(before)
        return pb.SendMessageResponse(task=agent.tasks["task-1"])

    before = pb.TaskStatus()

    class Asked(RecordedProgress):
        async def ask(self, question: Any, *, durable: bool = False) -> SourceAnswer:
            before.CopyFrom(agent.first.status)
            return await super().ask(question, durable=durable)

    agent, progress = EmulatedAgent(send=turns), Asked(accepting(answer="2026"), accepting(answer="May"))
    async with served(agent) as port, adapter() as calls:
        request = call_of(agent_source(f"127.0.0.1:{port}"), tool="brief", arguments=ASK)
        calling = asyncio.create_task(calls.call(request, progress))
        await until(lambda: any(isinstance(one, pb.SubscribeToTaskRequest) for one in agent.requests))
        agent.move("task-1", "INPUT_REQUIRED", text("Which month?"))
        assert (await calling).text == "A brief."
    assert [one.text for one in progress.questions] == ["Which year?", "Which month?"]


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
async def test_an_answer_that_the_agent_cannot_take_now_is_sent_again_and_not_asked_for_again(
    code: grpc.StatusCode,
) -> None:
    asks = becomes("INPUT_REQUIRED", text("Which year?"))

    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        if len(agent.messages) == 1:
            response = await asks(agent, request, context)
            before.CopyFrom(response.task.status)
            return response
        if len(agent.messages) < 4:
            agent.tasks["task-1"].status.CopyFrom(before)
            await context.abort(code, "later")
        return await DONE(agent, request, context)

    before = pb.TaskStatus()
    agent, progress = EmulatedAgent(send=turns), RecordedProgress(accepting(answer="2026"))
    assert (await called(agent, progress)).text == "A brief."
    assert len(progress.questions) == 1
    assert {(one.message_id, one.parts[0].text) for one in agent.messages[1:]} == {
        (agent.messages[1].message_id, "2026")
    }


async def test_a_question_that_is_very_large_is_shown_to_nobody() -> None:
    agent, progress = EmulatedAgent(send=becomes("INPUT_REQUIRED", text("x" * 300_000))), RecordedProgress()
    assert "it asked in more than" in (await called(agent, progress)).text
    assert (progress.questions, agent.cancelled) == ([], ["task-1"])


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("INPUT_REQUIRED", "the task may still go on. Do not send the message again."),
        ("FAILED", "The agent failed: Too late."),
        ("REJECTED", "The agent does not do this: Too late."),
    ],
)
async def test_a_task_that_was_not_cancelled_is_not_said_to_be(state: str, said: str) -> None:
    agent = EmulatedAgent(send=becomes("INPUT_REQUIRED", text("Which year?")))
    agent.refusals["CancelTask"] = grpc.StatusCode.UNIMPLEMENTED

    class Declined(RecordedProgress):
        async def ask(self, question: Any, *, durable: bool = False) -> SourceAnswer:
            agent.move("task-1", state, text("Too late."))
            return SourceAnswer("decline")

    returned = await called(agent, Declined())
    assert returned.is_error
    assert said in returned.text
    assert "was cancelled" not in returned.text


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_question_that_nobody_answers_cancels_the_task(action: str) -> None:
    agent = EmulatedAgent(send=becomes("INPUT_REQUIRED", text("Which year?")))
    returned = await called(agent, RecordedProgress(SourceAnswer(action)))
    assert returned.is_error
    assert returned.text.endswith(f"nobody answered what it asked ({action}): Which year?")
    assert agent.cancelled == ["task-1"]
    assert len(agent.messages) == 1


async def test_a_form_that_asks_for_a_secret_is_shown_to_nobody() -> None:
    form = {"schema": {"type": "object", "properties": {"password": {"type": "string"}}}}
    agent = EmulatedAgent(send=becomes("INPUT_REQUIRED", text("Log in."), pb.Part(data=to_value(form))))
    progress = RecordedProgress()
    returned = await called(agent, progress)
    assert "asked for a secret" in returned.text
    assert (progress.questions, agent.cancelled) == ([], ["task-1"])


# Sent once


async def test_a_cut_answer_is_looked_up_by_the_id_of_the_message() -> None:
    async def cut(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        await DONE(agent, request, context)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "a proxy has lost its patience")
        raise AssertionError

    agent = EmulatedAgent(send=cut)
    assert (await called(agent)).text == "A brief."
    assert len(agent.messages) == 1


@pytest.mark.parametrize("lists", [True, False])
async def test_a_cut_answer_whose_task_is_not_found_is_an_unknown_outcome(lists: bool) -> None:
    async def cut(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        agent.hidden.add("task-1")
        await context.abort(grpc.StatusCode.INTERNAL, "out of luck")
        raise AssertionError

    agent = EmulatedAgent(send=cut)
    if not lists:
        agent.refusals["ListTasks"] = grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(OutcomeUnknown, match="INTERNAL: out of luck") as unknown:
        await called(agent)
    assert unknown.value.final
    assert len(agent.messages) == 1


async def test_after_a_crash_a_question_in_the_same_words_is_another_one_and_an_answer_is_not_asked_for_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_questions, "_STALE", Backoff(0, 0))
    asks = pb.TaskStatus(
        state=pb.TASK_STATE_INPUT_REQUIRED,
        message=pb.Message(message_id="said", role=pb.ROLE_AGENT, parts=[text("Go on?")]),
    )
    reads = 0

    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        if len(agent.messages) == 3:
            return await DONE(agent, request, context)
        if len(agent.messages) == 2:
            # It works until the gateway is gone.
            return await becomes("WORKING")(agent, request, context)
        agent.tasks["task-1"].status.CopyFrom(asks)
        return pb.SendMessageResponse(task=agent.tasks["task-1"])

    class Stale(EmulatedAgent):
        """Tells for some more looks how the task stood before the answer."""

        async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.Task:
            nonlocal reads
            found = await super().GetTask(request, context)
            if calling.cancelled() and (reads := reads + 1) <= 20:
                return pb.Task(id=found.id, context_id=found.context_id, status=asks)
            return found

    agent, lost = Stale(send=turns), RecordedProgress(accepting(answer="yes"))
    lost.goes_on = True
    async with served(agent) as port, adapter() as first, adapter() as second:
        request = call_of(agent_source(f"127.0.0.1:{port}"), tool="brief", arguments=ASK)
        calling = asyncio.create_task(first.call(request, lost))
        await until(lambda: len(lost.handles) == 3)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        after = RecordedProgress(accepting(answer="again"))
        resumed = asyncio.create_task(second.resume(request, lost.handles[-1], after))
        await until(lambda: reads > 20)
        assert not after.questions
        agent.tasks["task-1"].status.CopyFrom(asks)
        agent.move_on()
        assert (await resumed).text == "A brief."
    assert [one.key for one in after.questions] == [lost.questions[0].key.removesuffix("-0") + "-1"]
    assert len({message.message_id for message in agent.messages}) == 3


async def test_an_answer_that_an_agent_does_not_read_for_minutes_after_a_crash_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_questions, "_STALE_SECONDS", 0.1)

    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        if len(agent.messages) == 3:
            return await DONE(agent, request, context)
        agent.first.status.CopyFrom(asks)
        return pb.SendMessageResponse(task=agent.first)

    asks = pb.TaskStatus(state=pb.TASK_STATE_INPUT_REQUIRED)
    agent, lost, after = EmulatedAgent(send=turns), *(RecordedProgress(accepting(answer=one)) for one in ("a", "b"))
    lost.goes_on = True
    async with served(agent) as port, adapter() as calls:
        request = call_of(agent_source(f"127.0.0.1:{port}"), tool="brief", arguments=ASK)
        calling = asyncio.create_task(calls.call(request, lost))
        await until(lambda: len(lost.handles) == 3)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        assert (await calls.resume(request, lost.handles[-1], after)).text == "A brief."
    assert [one.parts[0].text for one in agent.messages[1:]] == ["a", "b"]


class Thinking(RecordedProgress):
    """Has no answer yet to what it is asked after the given ones."""

    async def ask(self, question: SourceQuestion, *, durable: bool = False) -> SourceAnswer:
        if not self._answers:
            self.questions.append(question)
            raise StillAsked
        return await super().ask(question, durable=durable)


@pytest.mark.parametrize("refusal", ["a year has four digits", ""], ids=["refused", "asked anew"])
async def test_a_question_that_waits_for_its_answer_is_the_same_after_a_crash(refusal: str) -> None:
    asks = pb.TaskStatus(
        state=pb.TASK_STATE_INPUT_REQUIRED,
        message=pb.Message(message_id="said", role=pb.ROLE_AGENT, parts=[text("Which year?")]),
    )

    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        if len(agent.messages) == 3:
            return await DONE(agent, request, context)
        if len(agent.messages) == 1:
            agent.first.status.CopyFrom(asks)
            return pb.SendMessageResponse(task=agent.first)
        working = pb.SendMessageResponse(task=agent.first)
        agent.first.status.CopyFrom(asks)
        if refusal:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusal)
        return working

    agent = EmulatedAgent(send=turns)
    before, after = Thinking(accepting(answer="26")), RecordedProgress(accepting(answer="2026"))
    async with served(agent) as port, adapter() as calls:
        request = call_of(agent_source(f"127.0.0.1:{port}"), tool="brief", arguments=ASK)
        with pytest.raises(StillAsked):
            await calls.call(request, before)
        # Nothing is waited for: that the agent has read the last answer is known.
        async with asyncio.timeout(task_questions._STALE_SECONDS / 10):
            assert (await calls.resume(request, before.handles[-1], after)).text == "A brief."
    assert after.questions == before.questions[1:]
    assert before.questions[1].text.startswith(f"The agent did not take the last answer: {refusal}" if refusal else "W")
    assert [one.parts[0].text for one in agent.messages[1:]] == ["26", "2026"]


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_of_0_3_is_called_as_one_of_1_0_is(streaming: bool) -> None:
    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        if len(agent.messages) == 2:
            return await DONE(agent, request, context)
        form = {"schema": {"type": "object", "properties": {"year": {"type": "string"}}, "required": ["year"]}}
        return await becomes("INPUT_REQUIRED", text("Which year?"), pb.Part(data=to_value(form)))(
            agent, request, context
        )

    agent, progress = EmulatedAgent(send=turns, streaming=streaming), RecordedProgress(accepting(year="2026"))
    async with served(agent, speaks_03=True) as port, adapter() as calls:
        spec = agent_source(f"127.0.0.1:{port}", tenant="t-3")
        (listed,) = await calls.list_tools(spec, principal())
        request = call_of(spec, tool="brief", arguments=ASK, tool_hash=listed_hash(listed))
        assert (await calls.call(request, progress)).text == "A brief."
        first, second = agent.messages
        assert (first.parts[0].text, second.task_id) == (ASK["message"], "task-1")
        assert json_format.MessageToDict(second.parts[0].data) == {"year": "2026"}
        assert progress.questions[0].text == "Which year?"
        # After a crash it is found again by its id, and cancelled as others are.
        assert (await calls.resume(request, progress.handles[-1], RecordedProgress())).text == "A brief."
        with pytest.raises(OutcomeUnknown, match="cannot be asked"):
            await calls.resume(request, progress.handles[0], RecordedProgress())
    assert len(agent.messages) == 2
    assert {(one["a2a-version"], one["x-a2a-tenant"]) for one in agent.metadata} == {("0.3", "t-3")}


async def test_a_card_of_0_3_has_its_agent_called_over_0_3() -> None:
    agent = EmulatedAgent(send=DONE)
    async with served(agent, speaks_03=True) as port, RecordingApi() as api, adapter() as calls:
        api.answer("/card.json", json.dumps(document_03(f"127.0.0.1:{port}")))
        spec = agent_source(card_url=f"{api.url}/card.json")
        (listed,) = await calls.list_tools(spec, principal())
        request = call_of(spec, tool="brief", arguments=ASK, tool_hash=listed_hash(listed))
        assert (await calls.call(request, RecordedProgress())).text == "A brief."


async def test_an_extended_card_of_0_3_is_asked_for_where_the_public_one_says_that_there_is_one() -> None:
    agent = EmulatedAgent(skills=[pb.AgentSkill(id="more", name="More")])
    async with served(agent, speaks_03=True) as port, RecordingApi() as api, adapter() as calls:
        public = document_03(f"127.0.0.1:{port}", supportsAuthenticatedExtendedCard=True)
        api.answer("/card.json", json.dumps(public))
        spec = agent_source(f"127.0.0.1:{port}", card_url=f"{api.url}/card.json")
        assert [tool.name for tool in await calls.list_tools(spec, principal())] == ["more"]


async def test_an_extended_card_that_names_no_interface_of_grpc_has_its_agent_called_where_the_public_one_says() -> (
    None
):
    agent = EmulatedAgent(send=DONE)
    agent.card_03 = old_pb.AgentCard(name="Old", protocol_version="0.3.0", url="https://agents.example.com")
    agent.card_03.preferred_transport = "JSONRPC"
    agent.card_03.skills.add(id="brief", name="Brief")
    async with served(agent, speaks_03=True) as port, RecordingApi() as api, adapter() as calls:
        public = document_03(f"127.0.0.1:{port}", supportsAuthenticatedExtendedCard=True, skills=[])
        api.answer("/card.json", json.dumps(public))
        spec = agent_source(card_url=f"{api.url}/card.json")
        (listed,) = await calls.list_tools(spec, principal())
        request = call_of(spec, tool="brief", arguments=ASK, tool_hash=listed_hash(listed))
        assert (await calls.call(request, RecordedProgress())).text == "A brief."


@pytest.mark.parametrize("version", ["", "0.2.6"])
async def test_an_agent_that_answers_over_0_3_alone_is_called_over_it_whatever_its_card_says(version: str) -> None:
    agent = EmulatedAgent(send=DONE)
    agent.card_03 = old_pb.AgentCard(name="Old", skills=[old_pb.AgentSkill(id="brief", name="Brief")])
    if version:
        agent.card_03.protocol_version, agent.card_03.url = version, "https://agents.example.com"
    async with served(agent, speaks_03=True) as port, adapter() as calls:
        spec = agent_source(f"127.0.0.1:{port}")
        (listed,) = await calls.list_tools(spec, principal())
        request = call_of(spec, tool="brief", arguments=ASK, tool_hash=listed_hash(listed))
        assert (await calls.call(request, RecordedProgress())).text == "A brief."


async def test_a_card_of_0_3_with_numbers_that_are_none_is_refused() -> None:
    agent = EmulatedAgent()
    agent.card_03 = old_pb.AgentCard(name="Old")
    agent.card_03.capabilities.extensions.add().params.update({"most": float("inf")})
    async with served(agent, speaks_03=True) as port, adapter() as calls:
        with pytest.raises(FailedPrecondition, match="its agent card is no JSON"):
            await calls.list_tools(agent_source(f"127.0.0.1:{port}"), principal())


@pytest.mark.parametrize("knows_task", [True, False])
async def test_after_a_crash_the_task_is_followed_and_nothing_is_sent(knows_task: bool) -> None:
    agent = EmulatedAgent()
    async with served(agent) as port, adapter() as first, adapter() as second:
        request = call_of(agent_source(f"127.0.0.1:{port}"), tool="brief", arguments=ASK)
        lost = RecordedProgress()
        lost.goes_on = True
        calling = asyncio.create_task(first.call(request, lost))
        await until(lambda: len(lost.handles) == 2)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        resumed = asyncio.create_task(second.resume(request, lost.handles[knows_task], RecordedProgress()))
        agent.move("task-1", "COMPLETED", artifacts=[artifact(text("A brief."))])
        assert (await resumed).text == "A brief."
        assert (len(agent.messages), agent.cancelled) == (1, [])
        # Where the source has moved meanwhile, neither its task nor its credential is.
        moved = replace(request, source=agent_source("127.0.0.1:1"))
        with pytest.raises(OutcomeUnknown, match="another address"):
            await second.resume(moved, lost.handles[1], RecordedProgress())
        with pytest.raises(OutcomeUnknown, match="nothing is kept"):
            await second.resume(request, "", RecordedProgress())


@pytest.mark.parametrize("state", ["WORKING", "INPUT_REQUIRED"])
async def test_a_cancelled_call_cancels_the_task(state: str) -> None:
    agent = EmulatedAgent(send=becomes(state))
    waiting = asyncio.Event()

    class Waiting(RecordedProgress):
        async def ask(self, question: Any, *, durable: bool = False) -> SourceAnswer:
            waiting.set()
            await asyncio.Event().wait()
            raise AssertionError

    async with served(agent) as port, adapter() as calls:
        progress = Waiting()
        request = call_of(agent_source(f"127.0.0.1:{port}"), tool="brief", arguments=ASK)
        calling = asyncio.create_task(calls.call(request, progress))
        await until(lambda: len(progress.handles) == 2)
        if state == "INPUT_REQUIRED":
            await waiting.wait()
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await until(lambda: agent.cancelled == ["task-1"])


# Odd answers


async def test_an_answer_that_is_neither_task_nor_message_is_an_unknown_outcome() -> None:
    async def nothing(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        return pb.SendMessageResponse()

    async def nameless(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        return pb.SendMessageResponse(task=pb.Task(status=pb.TaskStatus(state=pb.TASK_STATE_WORKING)))

    for send, said in ((nothing, "neither a task nor a message"), (nameless, "without an id")):
        with pytest.raises(OutcomeUnknown, match=said):
            await called(EmulatedAgent(send=send))


@pytest.mark.parametrize("state", [0, 17])
async def test_a_state_that_is_none_is_an_unknown_outcome(state: int) -> None:
    with pytest.raises(OutcomeUnknown, match=f"in the state {state}"):
        await called(EmulatedAgent(send=becomes(state)))


async def test_a_stream_of_another_task_is_left_and_the_task_is_read() -> None:
    agent = EmulatedAgent()
    foreign = pb.TaskStatusUpdateEvent(task_id="theirs", status=pb.TaskStatus(state=pb.TASK_STATE_COMPLETED))
    agent.events = [pb.StreamResponse(status_update=foreign)]
    async with served(agent) as port, adapter() as calls:
        request = call_of(agent_source(f"127.0.0.1:{port}"), tool="brief", arguments=ASK)
        calling = asyncio.create_task(calls.call(request, RecordedProgress()))
        await agent.seen(1)
        await until(lambda: any(isinstance(one, pb.SubscribeToTaskRequest) for one in agent.requests))
        agent.move("task-1", "COMPLETED", artifacts=[artifact(text("A brief."))])
        assert (await calling).text == "A brief."


async def test_an_agent_whose_stream_and_task_differ_is_asked_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []

    class Noted(Backoff):
        def pause(self, attempt: int, at_least: float = 0.0) -> float:
            pauses.append(attempt)
            return 0.0

    class Differing(EmulatedAgent):
        subscribed = 0

        async def SubscribeToTask(self, request: pb.SubscribeToTaskRequest, context: Any) -> AsyncIterator[Any]:
            told = pb.TaskStatusUpdateEvent(task_id=request.id, status=self.first.status)
            told.status.timestamp.seconds += 1
            self.subscribed += 1
            if self.subscribed == 5:
                self.move("task-1", "COMPLETED", artifacts=[artifact(text("A brief."))])
            yield pb.StreamResponse(status_update=told)

    async def turns(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        if len(agent.messages) == 1:
            asked.CopyFrom((await becomes("INPUT_REQUIRED", text("Which year?"))(agent, request, context)).task.status)
        agent.first.status.CopyFrom(asked)
        return pb.SendMessageResponse(task=agent.first)

    asked = pb.TaskStatus()
    monkeypatch.setattr(task_follower, "_POLLS", Noted(0.5, 15.0))
    progress = RecordedProgress(accepting(answer="2026"))
    assert (await called(Differing(send=turns), progress)).text == "A brief."
    assert pauses == [2, 3, 4, 5]


async def test_a_task_under_another_id_is_an_unknown_outcome() -> None:
    class Other(EmulatedAgent):
        async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.Task:
            return pb.Task(id="theirs", status=pb.TaskStatus(state=pb.TASK_STATE_COMPLETED))

    with pytest.raises(OutcomeUnknown, match="another task"):
        await called(Other(streaming=False))


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_result_that_is_too_large_is_said_to_be_and_not_sent_again(at_once: bool) -> None:
    large = [artifact(text("x" * 3_000_000))]

    async def later(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        working = await becomes("WORKING")(agent, request, context)
        answer = pb.SendMessageResponse.FromString(working.SerializeToString())
        agent.move("task-1", "COMPLETED", artifacts=large)
        return answer

    agent = EmulatedAgent(send=becomes("COMPLETED", artifacts=large) if at_once else later)
    returned = await called(agent)
    assert returned.is_error
    assert "larger than is read here" in returned.text
    assert len(agent.messages) == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "TOOL_ARGUMENTS"),
        (grpc.StatusCode.FAILED_PRECONDITION, "TOOL_REFUSED"),
        (grpc.StatusCode.NOT_FOUND, "TOOL_NOT_FOUND"),
        (grpc.StatusCode.UNIMPLEMENTED, "TOOL_UNAVAILABLE"),
        (grpc.StatusCode.UNAUTHENTICATED, "UPSTREAM_CREDENTIAL_REJECTED"),
    ],
)
async def test_a_status_that_refuses_a_message_is_a_refusal(code: grpc.StatusCode, reason: str) -> None:
    agent = EmulatedAgent()
    agent.refusals["SendMessage"] = code
    with pytest.raises(CallRefused, match="SendMessage is refused here") as refused:
        await called(agent)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "said",
    [
        "SERVER: Received message larger than max (5 vs. 4)",
        "grpc: received message larger than max (5 vs. 4)",
        "gRPC message exceeds maximum size 4: 5",
    ],
)
async def test_a_message_that_the_agent_finds_too_large_is_a_refusal(said: str) -> None:
    async def refuse(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, said)
        raise AssertionError

    with pytest.raises(CallRefused, match="send less") as refused:
        await called(EmulatedAgent(send=refuse))
    assert refused.value.reason == "TOOL_ARGUMENTS"


async def test_a_task_that_is_forgotten_is_an_unknown_outcome() -> None:
    agent = EmulatedAgent(streaming=False)
    agent.refusals["GetTask"] = grpc.StatusCode.NOT_FOUND
    with pytest.raises(OutcomeUnknown, match="does not know the task"):
        await called(agent)


async def test_an_agent_that_cannot_be_reached_was_sent_nothing() -> None:
    progress = RecordedProgress()
    async with served(EmulatedAgent()) as port, adapter() as calls:
        spec = agent_source(f"127.0.0.1:{port}")
        await calls.list_tools(spec, principal())
        request = call_of(spec, tool="brief", arguments=ASK)
    async with adapter() as calls:
        with pytest.raises(NotSent):
            await calls.call(request, progress)
        with pytest.raises(Unavailable):
            await calls.list_tools(spec, principal())
    assert progress.sent_count == 0


# TLS and credentials


async def test_the_credential_of_the_source_goes_to_its_address_alone_and_is_not_repeated(tmp_path: Path) -> None:
    write_authority(tmp_path, "localhost")
    agent = EmulatedAgent(send=becomes("COMPLETED", artifacts=[artifact(text(f"You are {TOKEN}."))]))
    headers = GivenHeaders(partner={"authorization": f"Bearer {TOKEN}"})
    authorities = (tmp_path / "ca.pem").read_bytes()
    async with (
        served(agent, directory=tmp_path) as port,
        RecordingApi() as api,
        adapter(credentials=headers, authorities=authorities) as calls,
    ):
        api.answer("/card.json", json_format.MessageToJson(agent.card))
        spec = agent_source(
            f"localhost:{port}",
            card_url=f"{api.url}/card.json",
            plaintext=False,
            auth=SourceAuth(AuthKind.SECRET, secret_name="tools/partner"),
        )
        await calls.list_tools(spec, principal())
        returned = await calls.call(call_of(spec, tool="brief", arguments=ASK), RecordedProgress())
        assert returned.text == "You are [secret]."
        assert {one["authorization"] for one in agent.metadata} == {f"Bearer {TOKEN}"}
        # The card lies at another origin.
        assert [request.header("authorization") for request in api.requests] == [[]]
        assert set(headers.urls) == {f"https://localhost:{port}/"}
        plain = replace(spec, endpoint=A2AAgent(address=f"localhost:{port}", plaintext=True))
        with pytest.raises(CoxswainError, match="over TLS only"):
            await calls.list_tools(plain, principal())
    async with served(agent, directory=tmp_path) as port, adapter(credentials=headers) as calls:
        with pytest.raises(Unavailable, match="certificate"):
            await calls.list_tools(agent_source(f"localhost:{port}", plaintext=False), principal())
