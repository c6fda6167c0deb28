"""Calls at tool providers over real gRPC: what arrives, what is made once, what is never reached."""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from coxswain.auth.v1 import secret_pb2
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from coxswain.tools.v1 import tool_provider_pb2 as pb
from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied, Unavailable
from services.orchestrator.domain.tool_source import AuthKind, OnToolChange, ShareField, SourceAuth
from services.orchestrator.tool_gateway.adapters.grpc_provider.adapter import MAX_TOOLS, GrpcProviderAdapter
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown, SourceAnswer, ToolResult
from services.orchestrator.tool_identity import listed_hash
from tests.support.child_process import free_port
from tests.support.harness import ALICE, serve_services
from tests.support.tool_gateway import FixedSources, GatewayCaller
from tests.support.tool_provider import (
    LOOPBACK,
    PUBLIC_ONLY,
    EmulatedProvider,
    GivenHeaders,
    RecordedProgress,
    accepted,
    call_of,
    principal,
    provided_tool,
    result,
    served,
    source,
    write_authority,
)
from tests.support.waiting import until

Responses = AsyncIterator[pb.CallToolResponse]


@contextlib.asynccontextmanager
async def adapter(policy: Any = LOOPBACK, **options: Any) -> AsyncIterator[GrpcProviderAdapter]:
    made = GrpcProviderAdapter(
        policy,
        options.pop("credentials", GivenHeaders()),
        **{"connect_seconds": 30.0, "look_up_seconds": 0.5, "max_result_bytes": 1024 * 1024} | options,
    )
    try:
        yield made
    finally:
        await made.close()


async def called(provider: EmulatedProvider, progress: RecordedProgress | None = None, **fields: Any) -> ToolResult:
    async with served(provider) as port, adapter() as calls:
        return await calls.call(call_of(source(f"127.0.0.1:{port}"), **fields), progress or RecordedProgress())


def answering(**fields: Any) -> Callable[[pb.GetCallRequest, Any], Awaitable[pb.GetCallResponse]]:
    async def answer(request: pb.GetCallRequest, context: Any) -> pb.GetCallResponse:
        return pb.GetCallResponse(**fields)

    return answer


# What arrives


async def test_a_call_arrives_as_it_was_made_and_returns_what_the_tool_returns() -> None:
    arguments: dict[str, Any] = {
        "whole": 2**63 + 1,
        "large": 1e16,
        "small": 0.1,
        "nothing": None,
        "empty": {},
        "list": [[], {"deep": [None, True]}],
        "text": 'ä\u2028"\\ \U0001f600',
        "half": "\ud800",
    }
    provider, progress = EmulatedProvider(), RecordedProgress()
    async with served(provider) as port, adapter() as calls:
        spec = source(f"127.0.0.1:{port}")
        (listed,) = await calls.list_tools(spec, principal())
        meant = listed_hash(listed)
        returned = await calls.call(call_of(spec, arguments=arguments, tool_hash=meant), progress)
    [request] = provider.delivered
    assert json.loads(request.arguments_json) == arguments
    assert (request.call_id, request.tool, request.tool_hash) == ("call-1", "pay", meant)
    assert not request.HasField("caller")
    assert (returned.text, returned.is_error) == ("done", False)
    assert json.loads(returned.structured["arguments_json"]) == arguments
    assert progress.sent_count == 1
    assert provider.made == {"call-1": 1}


async def test_a_tool_that_is_no_longer_what_was_meant_is_not_called() -> None:
    tools = [provided_tool("pay")]

    lists: list[pb.ListToolsRequest] = []

    async def listing(request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        lists.append(request)
        return pb.ListToolsResponse(tools=tools)

    provider = EmulatedProvider(list_tools=listing)
    async with served(provider) as port, adapter() as calls:
        spec = source(f"127.0.0.1:{port}")
        (listed,) = await calls.list_tools(spec, principal())
        tools[0].description = "Pays twice."
        meant = call_of(spec, tool_hash=listed_hash(listed))
        with pytest.raises(CallRefused, match="no longer what was accepted") as refused:
            await calls.call(meant, RecordedProgress())
        assert refused.value.reason == "TOOL_CHANGED"
        assert provider.delivered == []
        # Changes that the source lets pass; one that must not be repeated any more is not called as one that may.
        passing = replace(meant, source=replace(spec, on_change=OnToolChange.ACCEPT))
        await calls.call(passing, RecordedProgress())
        with pytest.raises(CallRefused, match="must not be called twice"):
            await calls.call(replace(passing, call_id="call-2", idempotent=True), RecordedProgress())
        # A call that goes on being refused does not read the list each time.
        read = len(lists)
        for _ in range(3):
            with pytest.raises(CallRefused, match="no longer what was accepted"):
                await calls.call(meant, RecordedProgress())
        assert len(lists) == read
        tools.clear()
        with pytest.raises(CallRefused) as refused:
            await calls.call(replace(meant, call_id="call-3", tool_hash="another"), RecordedProgress())
        assert refused.value.reason == "TOOL_NOT_FOUND"
    assert len(provider.delivered) == 1


async def test_a_provider_is_told_of_the_caller_what_the_source_shares() -> None:
    provider = EmulatedProvider()
    async with served(provider) as port, adapter() as calls:
        for share in [(ShareField.GROUP,), (ShareField.SUBJECT, ShareField.LABELS), tuple(ShareField)]:
            spec = source(f"127.0.0.1:{port}", share=share)
            await calls.call(call_of(spec), RecordedProgress())
    callers = [request.caller for request in provider.delivered]
    assert callers == [
        pb.Caller(group="sales"),
        pb.Caller(subject="issuer|ann", labels={"order": "17"}),
        pb.Caller(group="sales", subject="issuer|ann", execution="execution-1", labels={"order": "17"}),
    ]


async def test_progress_is_passed_on_without_what_hides() -> None:
    async def working(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted()
        yield pb.CallToolResponse(progress=pb.Progress(text="half\u202e way\x00\x1b[2J", fraction=0.5))
        yield pb.CallToolResponse(progress=pb.Progress(text="x" * 5000, fraction=7))
        yield result()

    progress = RecordedProgress()
    await called(EmulatedProvider(deliver=working), progress)
    assert progress.texts == ["half way[2J", "x" * 1024]
    assert progress.fractions == [0.5, None]


async def test_files_come_with_names_that_lead_nowhere() -> None:
    async def writing(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted()
        names = ["a.pdf", "../../etc/passwd", "C:\\x\\b.txt", "..", ""]
        yield result(files=[pb.ResultFile(name=name, media_type="text/plain", content=b"1") for name in names])

    returned = await called(EmulatedProvider(deliver=writing))
    assert [file.name for file in returned.files] == ["a.pdf", "passwd", "b.txt", "file", "file"]


@pytest.mark.parametrize(
    ("structured", "text"),
    [("{", "{"), ("NaN", "NaN"), ("[" * 101 + "]" * 101, "[" * 101 + "]" * 101), ("1e999", "1e999")],
)
async def test_json_that_cannot_be_read_stays_text(structured: str, text: str) -> None:
    async def odd(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted()
        yield result("", structured_json=structured)

    returned = await called(EmulatedProvider(deliver=odd))
    assert (returned.text, returned.structured, returned.is_error) == (text, None, False)


# Made once


async def ended_early(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
    yield accepted()
    provider.work(request)


async def failed_after_the_work(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
    yield accepted()
    provider.work(request)
    await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")


async def failed_without_a_word(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
    provider.work(request)
    await context.abort(grpc.StatusCode.INTERNAL, "oops")
    yield accepted()


async def said_nothing_of_use(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
    yield accepted()
    provider.work(request)
    yield pb.CallToolResponse()


async def returned_too_much(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
    yield accepted()
    provider.work(request)
    yield result("x" * 2 * 1024 * 1024)


BREAKING = [ended_early, failed_after_the_work, failed_without_a_word, said_nothing_of_use, returned_too_much]


@pytest.mark.parametrize("deliver", BREAKING)
async def test_what_nobody_can_know_is_unknown_and_not_made_again(deliver: Any) -> None:
    provider = EmulatedProvider(deliver=deliver)
    with pytest.raises(OutcomeUnknown, match="does not implement GetCall") as unknown:
        await called(provider)
    assert unknown.value.final
    assert provider.made == {"call-1": 1}
    assert len(provider.delivered) == 1


@pytest.mark.parametrize("deliver", BREAKING)
async def test_a_provider_that_keeps_its_calls_is_asked_instead(deliver: Any) -> None:
    answers = [
        pb.GetCallResponse(state=pb.CALL_STATE_RUNNING, poll_interval=Duration(nanos=1)),
        pb.GetCallResponse(state=pb.CALL_STATE_DONE, result=pb.CallResult(text="paid")),
    ]

    async def get_call(request: pb.GetCallRequest, context: Any) -> pb.GetCallResponse:
        return answers.pop(0)

    provider, progress = EmulatedProvider(deliver=deliver, get_call=get_call), RecordedProgress()
    returned = await called(provider, progress)
    assert returned.text == "paid"
    assert provider.made == {"call-1": 1}
    assert [request.call_id for request in provider.asked] == ["call-1"] * 2
    assert provider.asked[0].sent_time.ToJsonString()[:19] == progress.handles[0][:19]
    assert progress.texts == [""], "a call that runs is a sign of it"


async def test_a_call_that_was_never_seen_was_not_sent() -> None:
    provider = EmulatedProvider(deliver=ended_early, get_call=answering(state=pb.CALL_STATE_NEVER_SEEN))
    with pytest.raises(NotSent, match="never seen"):
        await called(provider)
    assert len(provider.asked) == 2, "what was cut may still arrive: one answer is not enough"


@pytest.mark.parametrize(
    "answer",
    [
        {"state": pb.CALL_STATE_FORGOTTEN},
        {"state": pb.CALL_STATE_UNSPECIFIED},
        {"state": 99},
        {"state": pb.CALL_STATE_DONE},
        {"state": pb.CALL_STATE_INPUT_REQUIRED},
    ],
)
async def test_an_answer_that_says_nothing_leaves_the_outcome_unknown(answer: dict[str, Any]) -> None:
    with pytest.raises(OutcomeUnknown):
        await called(EmulatedProvider(deliver=ended_early, get_call=answering(**answer)))


async def test_a_provider_that_restarts_is_asked_again() -> None:
    async def cut(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted()
        provider.work(request)
        await asyncio.Event().wait()

    first = EmulatedProvider(deliver=cut)
    second = EmulatedProvider(
        get_call=answering(state=pb.CALL_STATE_DONE, result=pb.CallResult(text="paid before the restart"))
    )
    async with adapter(look_up_seconds=30.0) as calls:
        address = f"127.0.0.1:{free_port()}"
        async with served(first, address=address) as port:
            call = asyncio.create_task(calls.call(call_of(source(f"127.0.0.1:{port}")), RecordedProgress()))
            await first.arrived.wait()
        async with served(second, address=address):
            assert (await call).text == "paid before the restart"
    assert first.made == {"call-1": 1}
    assert second.delivered == []


async def test_a_process_that_takes_over_asks_and_never_delivers() -> None:
    provider = EmulatedProvider(get_call=answering(state=pb.CALL_STATE_DONE, result=pb.CallResult(text="paid")))
    async with served(provider) as port, adapter() as calls:
        request = call_of(source(f"127.0.0.1:{port}"))
        for handle in ("2026-01-02T03:04:05+00:00", "", "nonsense"):
            assert (await calls.resume(request, handle, RecordedProgress())).text == "paid"
    assert provider.delivered == []
    assert [asked.HasField("sent_time") for asked in provider.asked] == [True, False, False]
    assert provider.asked[0].sent_time.ToJsonString() == "2026-01-02T03:04:05Z"


async def test_what_cannot_be_reached_was_not_sent() -> None:
    progress = RecordedProgress()
    async with adapter() as calls:
        with pytest.raises(NotSent, match="refuses connections"):
            await calls.call(call_of(source(f"127.0.0.1:{free_port()}")), progress)
    assert progress.sent_count == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.NOT_FOUND, "TOOL_NOT_FOUND"),
        (grpc.StatusCode.INVALID_ARGUMENT, "TOOL_ARGUMENTS"),
        (grpc.StatusCode.FAILED_PRECONDITION, "TOOL_REFUSED"),
        (grpc.StatusCode.UNAUTHENTICATED, "UPSTREAM_CREDENTIAL_REJECTED"),
        (grpc.StatusCode.PERMISSION_DENIED, "TOOL_REFUSED"),
        (grpc.StatusCode.UNIMPLEMENTED, "TOOL_UNAVAILABLE"),
    ],
)
async def test_a_status_instead_of_acceptance_is_a_refusal(code: grpc.StatusCode, reason: str) -> None:
    async def refusing(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        await context.abort(code, "not\x00 today")
        yield accepted()

    provider = EmulatedProvider(deliver=refusing)
    with pytest.raises(CallRefused) as refused:
        await called(provider)
    assert refused.value.reason == reason
    assert provider.asked == []


async def test_the_same_status_after_acceptance_says_nothing() -> None:
    async def refusing(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted()
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "half done")

    with pytest.raises(OutcomeUnknown, match="half done"):
        await called(EmulatedProvider(deliver=refusing))


async def test_a_limit_with_a_time_may_be_tried_again_and_one_without_says_nothing() -> None:
    detail = AnyMessage()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3)))
    status = status_pb2.Status(code=8, message="slow down", details=[detail]).SerializeToString()

    async def limiting(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        if request.call_id == "with":
            context.set_trailing_metadata((("grpc-status-details-bin", status),))
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down")
        yield accepted()

    provider = EmulatedProvider(deliver=limiting)
    with pytest.raises(NotSent) as limited:
        await called(provider, call_id="with")
    assert (limited.value.reason, limited.value.retry_after) == ("TOOL_RATE_LIMITED", 3.0)
    with pytest.raises(OutcomeUnknown):
        await called(provider, call_id="without")


async def test_a_cancelled_call_is_cancelled_at_the_provider() -> None:
    async def endless(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted()
        while True:
            yield pb.CallToolResponse(progress=pb.Progress(text="on and on"))

    provider, progress = EmulatedProvider(deliver=endless), RecordedProgress()
    async with served(provider) as port, adapter() as calls:
        call = asyncio.create_task(calls.call(call_of(source(f"127.0.0.1:{port}")), progress))
        await progress.progressed.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await provider.ended.wait()
        await provider.told.wait()
    assert provider.cancelled == ["call-1"]


async def test_the_first_of_two_results_counts_and_the_rest_is_not_read() -> None:
    async def lying(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted()
        yield result("first")
        while True:
            yield result("second")

    provider = EmulatedProvider(deliver=lying)
    async with served(provider) as port, adapter() as calls:
        returned = await calls.call(call_of(source(f"127.0.0.1:{port}")), RecordedProgress())
        await provider.ended.wait()
    assert returned.text == "first"


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x1a\x04\x0a\x02\xff\xfe"], ids=["bytes", "UTF-8"])
async def test_what_is_no_message_leaves_the_outcome_unknown(data: bytes) -> None:
    async def garbage(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield data

    server = grpc.aio.server()
    handler: Any = grpc.unary_stream_rpc_method_handler(garbage)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("coxswain.tools.v1.ToolProvider", {"CallTool": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with adapter() as calls:
        with pytest.raises(OutcomeUnknown, match="not a CallToolResponse"):
            await calls.call(call_of(source(f"127.0.0.1:{port}")), RecordedProgress())
    await server.stop(None)


@pytest.mark.parametrize("arguments", [{"a": float("nan")}, {"a": "x" * 1024 * 1024}], ids=["NaN", "size"])
async def test_arguments_that_cannot_be_sent_are_refused(arguments: dict[str, Any]) -> None:
    async with adapter() as calls:
        with pytest.raises(CallRefused) as refused:
            await calls.call(call_of(source("127.0.0.1:1"), arguments=arguments), RecordedProgress())
    assert refused.value.reason == "TOOL_ARGUMENTS"


# Questions


async def test_a_person_is_asked_and_the_same_call_is_delivered_with_the_answers() -> None:
    schema = '{"type": "object", "properties": {"code": {"type": "string"}}}'

    async def asking(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted(repeated=bool(request.answers))
        if not request.answers:
            yield pb.CallToolResponse(
                input_required=pb.InputRequired(
                    questions=[
                        pb.InputQuestion(id="code", text="Which code?\u200b", schema_json=schema),
                        pb.InputQuestion(id="visit", text="Sign in", url="https://example.com/consent"),
                        pb.InputQuestion(id="inside", text="Sign in here", url="https://127.0.0.1/consent"),
                        pb.InputQuestion(id="secret", text="Sign in", schema_json=schema.replace("code", "password")),
                        pb.InputQuestion(id="none", text="What?", schema_json="{"),
                    ],
                    state=b"\x00signed",
                )
            )
            return
        provider.work(request)
        yield result("paid")

    provider = EmulatedProvider(deliver=asking)
    progress = RecordedProgress(SourceAnswer("accept", {"code": "ä1"}), SourceAnswer("decline"))
    assert (await called(provider, progress)).text == "paid"
    assert [(question.text, question.url) for question in progress.questions] == [
        ("Which code?", ""),
        ("Sign in", "https://example.com/consent"),
    ]
    first, second = provider.delivered
    assert (first.call_id, first.arguments_json) == (second.call_id, second.arguments_json)
    assert second.state == b"\x00signed"
    assert {key: (answer.action, answer.content_json) for key, answer in second.answers.items()} == {
        "code": (pb.INPUT_ACTION_ACCEPT, '{"code": "ä1"}'),
        "visit": (pb.INPUT_ACTION_DECLINE, ""),
        **dict.fromkeys(("inside", "secret", "none"), (pb.INPUT_ACTION_CANCEL, "")),
    }
    assert progress.sent_count == 1


async def test_a_provider_that_asks_for_ever_is_given_up() -> None:
    async def asking(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted()
        question = pb.InputQuestion(id="q", text="Again?", schema_json='{"properties": {}}')
        yield pb.CallToolResponse(input_required=pb.InputRequired(questions=[question], state=b"same"))

    progress = RecordedProgress(SourceAnswer("decline"))
    with pytest.raises(OutcomeUnknown, match="times in one call"):
        await called(EmulatedProvider(deliver=asking), progress)
    assert len(progress.questions) == 1, "a question that was answered is not asked again"


# Lists


def listing(*pages: pb.ListToolsResponse) -> EmulatedProvider:
    by_token = {"": pages[0]} | {page.next_page_token: after for page, after in itertools.pairwise(pages)}

    async def list_tools(request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        return by_token[request.page_token]

    return EmulatedProvider(list_tools=list_tools)


async def listed(provider: EmulatedProvider) -> Any:
    async with served(provider) as port, adapter() as calls:
        return await calls.list_tools(source(f"127.0.0.1:{port}"), principal())


async def test_every_page_of_the_tools_is_read() -> None:
    schema = '{"type": "object", "properties": {"n": {"maximum": 9007199254740993}}}'
    tools = await listed(
        listing(
            pb.ListToolsResponse(tools=[provided_tool("a", idempotent=True)], next_page_token="2"),
            pb.ListToolsResponse(next_page_token="3"),
            pb.ListToolsResponse(
                tools=[pb.ProvidedTool(name="b", description="Hid\u200bden", title="B", input_schema_json=schema)]
            ),
        )
    )
    assert [(tool.name, tool.title, tool.description, tool.idempotent_hint) for tool in tools] == [
        ("a", "", "Does a.", True),
        ("b", "B", "Hidden", None),
    ]
    assert tools[1].arguments_schema["properties"]["n"]["maximum"] == 9007199254740993
    assert tools[1].warnings == ("hidden characters of the description were removed",)


@pytest.mark.parametrize(
    ("pages", "problem"),
    [
        ([pb.ListToolsResponse(tools=[provided_tool(f"t{n}") for n in range(MAX_TOOLS + 1)])], "more than 512"),
        ([pb.ListToolsResponse(tools=[provided_tool("a"), provided_tool("a")])], "twice"),
        ([pb.ListToolsResponse(tools=[provided_tool("a b")])], "visible ASCII"),
        ([pb.ListToolsResponse(tools=[provided_tool("a/b")])], "slash"),
        ([pb.ListToolsResponse(tools=[provided_tool("")])], "visible ASCII"),
        ([pb.ListToolsResponse(tools=[pb.ProvidedTool(name="a", input_schema_json="[]")])], "input schema of a"),
        ([pb.ListToolsResponse(tools=[pb.ProvidedTool(name="a", input_schema_json="[" * 9999)])], "input schema"),
        ([pb.ListToolsResponse(tools=[pb.ProvidedTool(name="a", output_schema_json="x" * 300_000)])], "larger than"),
        ([pb.ListToolsResponse(next_page_token="2"), pb.ListToolsResponse(next_page_token="2")], "back to one"),
    ],
)
async def test_a_list_that_cannot_be_used_is_refused_in_words(pages: list[Any], problem: str) -> None:
    with pytest.raises(FailedPrecondition, match=problem):
        await listed(listing(*pages))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, PermissionDenied),
        (grpc.StatusCode.UNIMPLEMENTED, FailedPrecondition),
        (grpc.StatusCode.INTERNAL, Unavailable),
    ],
)
async def test_a_list_that_fails_says_why(code: grpc.StatusCode, kind: type[CoxswainError]) -> None:
    async def failing(request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        await context.abort(code, "because")
        raise AssertionError

    with pytest.raises(kind):
        await listed(EmulatedProvider(list_tools=failing))


# Where calls go


@pytest.mark.parametrize(
    ("address", "plaintext"),
    [
        ("127.0.0.1:{port}", False),
        ("127.0.0.1:{port}", True),
        ("localhost:{port}", False),
        ("[::1]:{port}", True),
        ("[::ffff:127.0.0.1]:{port}", True),
        ("0177.0.0.1:{port}", True),
        ("2130706433:{port}", False),
        ("169.254.169.254:80", True),
        ("user@127.0.0.1:{port}", False),
        ("127.0.0.1:{port}/x", False),
        ("unix:///tmp/socket", False),
        ("dns:///127.0.0.1:{port}", False),
        ("ipv4:127.0.0.1:{port}", False),
        ("", False),
    ],
)
async def test_no_address_leads_inside(address: str, plaintext: bool) -> None:
    provider = EmulatedProvider()
    async with served(provider) as port, adapter(PUBLIC_ONLY) as calls:
        spec = source(address.format(port=port), plaintext=plaintext)
        with pytest.raises((CallRefused, NotSent)):
            await calls.call(call_of(spec), RecordedProgress())
        with pytest.raises(CoxswainError):
            await calls.list_tools(spec, principal())
    assert provider.metadata == []


async def test_a_name_is_resolved_once_and_its_checked_address_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere the next time it is asked gains nothing: gRPC itself never asks."""
    provider = EmulatedProvider()
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def rebinding(host: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        return resolve("127.0.0.1" if len(asked) == 1 else "10.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    async with served(provider) as port, adapter() as calls:
        spec = source(f"billing.example.com:{port}")
        await calls.call(call_of(spec, "one"), RecordedProgress())
        await calls.call(call_of(spec, "two"), RecordedProgress())
        assert asked == ["billing.example.com"]
        with pytest.raises(CallRefused) as refused:
            await calls.call(call_of(spec, "three", principal=principal("other group")), RecordedProgress())
    assert refused.value.reason == "DESTINATION_NOT_ALLOWED"
    assert "10.0.0.1" not in str(refused.value)
    assert [request.call_id for request in provider.delivered] == ["one", "two"]


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    provider = EmulatedProvider()
    assert (await called(provider)).text == "done"


async def test_certificates_are_checked_against_the_name_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_authority(tmp_path, "billing.example.com")
    resolve = socket.getaddrinfo

    def loopback(_host: Any, *arguments: Any, **options: Any) -> Any:
        return resolve("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", loopback)
    provider = EmulatedProvider()
    headers = GivenHeaders(billing={"Authorization": "Bearer very-secret-token"})
    authority = (tmp_path / "ca.pem").read_bytes()
    async with served(provider, directory=tmp_path) as port:
        async with adapter(credentials=headers, authorities=authority) as calls:
            spec = source(f"billing.example.com:{port}", plaintext=False, headers={"x-tenant": "7"})
            assert (await calls.call(call_of(spec), RecordedProgress())).text == "done"
            for name, plaintext, why in (
                ("other.example.com", False, "certificate"),
                ("billing.example.com", True, "cannot be reached"),
            ):
                with pytest.raises(NotSent, match=why):
                    await calls.call(call_of(source(f"{name}:{port}", plaintext=plaintext)), RecordedProgress())
        async with adapter(credentials=headers) as unknown_authority:
            with pytest.raises(NotSent, match="certificate"):
                await unknown_authority.call(call_of(spec), RecordedProgress())
    assert headers.urls[0] == f"https://billing.example.com:{port}/"
    [metadata] = provider.metadata
    assert metadata["authorization"] == "Bearer very-secret-token"
    assert metadata["x-tenant"] == "7"
    # And over TLS to a server without it.
    async with served(provider) as port, adapter(credentials=headers, authorities=authority) as calls:
        with pytest.raises(NotSent, match="TLS"):
            await calls.call(call_of(source(f"billing.example.com:{port}", plaintext=False)), RecordedProgress())


class Guarded(EmulatedProvider):
    """Knows one token at a time."""

    token = "new"

    async def CallTool(self, request: pb.CallToolRequest, context: Any) -> Responses:
        await self._guard(context)
        async for response in super().CallTool(request, context):
            yield response

    async def GetCall(self, request: pb.GetCallRequest, context: Any) -> pb.GetCallResponse:
        await self._guard(context)
        return await super().GetCall(request, context)

    async def _guard(self, context: Any) -> None:
        sent = dict(context.invocation_metadata()).get("authorization")
        if sent != f"Bearer {self.token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"{sent} is not valid")


@contextlib.asynccontextmanager
async def guarded(directory: Path, headers: GivenHeaders, **options: Any) -> AsyncIterator[tuple[Guarded, Any]]:
    write_authority(directory, "localhost")
    authority = (directory / "ca.pem").read_bytes()
    provider = Guarded(deliver=ended_early, **options)
    async with (
        served(provider, directory=directory) as port,
        adapter(credentials=headers, authorities=authority) as calls,
    ):

        async def make(*, resume: bool = False) -> ToolResult:
            request = call_of(source(f"localhost:{port}", plaintext=False))
            if resume:
                return await calls.resume(request, "", RecordedProgress())
            return await calls.call(request, RecordedProgress())

        yield provider, make


DONE = {"state": pb.CALL_STATE_DONE, "result": pb.CallResult(text="paid")}


async def test_a_credential_that_is_refused_is_renewed_once(tmp_path: Path) -> None:
    headers = GivenHeaders(billing={"authorization": "Bearer old-token"}, after_refusal={"authorization": "Bearer new"})
    async with guarded(tmp_path, headers, get_call=answering(**DONE)) as (provider, make):
        assert (await make()).text == "paid"
        assert provider.made == {"call-1": 1}
        provider.token = "newer-token"
        with pytest.raises(CallRefused) as refused:
            await make()
    assert refused.value.reason == "UPSTREAM_CREDENTIAL_REJECTED"


async def test_a_call_outlasts_its_credential(tmp_path: Path) -> None:
    headers = GivenHeaders(billing={"authorization": "Bearer new"}, after_refusal={"authorization": "Bearer newer"})

    async def expires(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted()
        provider.work(request)
        assert isinstance(provider, Guarded)
        provider.token = "newer"

    async with guarded(tmp_path, headers, get_call=answering(**DONE)) as (provider, make):
        provider._deliver = expires
        assert (await make()).text == "paid"


@pytest.mark.parametrize(
    "failure", [NotSent("auth does not answer"), CallRefused("no credential", reason="CREDENTIAL_MISSING")]
)
async def test_a_credential_that_is_gone_says_nothing_of_a_call_that_was_sent(
    tmp_path: Path, failure: Exception
) -> None:
    headers = GivenHeaders(billing={"authorization": "Bearer new"})
    headers.failure = failure
    async with guarded(tmp_path, headers, get_call=answering(**DONE)) as (provider, make):
        with pytest.raises(OutcomeUnknown) as unknown:
            await make(resume=True)
        assert not unknown.value.final
        with pytest.raises(type(failure)):
            await make()
    assert provider.delivered == []


async def test_a_credential_is_not_sent_in_clear_text() -> None:
    provider = EmulatedProvider()
    async with served(provider) as port, adapter(credentials=GivenHeaders(billing={"authorization": "x"})) as calls:
        spec = source(f"127.0.0.1:{port}", auth=SourceAuth(kind=AuthKind.SECRET, secret_name="tools/billing"))
        with pytest.raises(CallRefused, match="TLS only"):
            await calls.call(call_of(spec), RecordedProgress())
    assert provider.metadata == []


@pytest.mark.parametrize(
    "headers", [{"grpc-timeout": "1"}, {"x-bin": "1"}, {"a b": "1"}, {"x": "ü"}, {"x": "1\r\ny: 2"}]
)
async def test_headers_that_grpc_cannot_send_are_refused(headers: dict[str, str]) -> None:
    async with adapter() as calls:
        with pytest.raises(CallRefused):
            await calls.call(call_of(source("127.0.0.1:1", headers=headers)), RecordedProgress())


async def test_what_speaks_something_else_was_sent_nothing() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    for speak in (http, silent):
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with adapter(connect_seconds=0.5) as calls:
            with pytest.raises(NotSent):
                await calls.call(call_of(source(f"127.0.0.1:{port}")), RecordedProgress())
        server.close()


async def test_groups_and_credentials_share_no_connection_and_idle_ones_are_closed() -> None:
    peers: list[str] = []

    async def noting(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        peers.append(context.peer())
        yield result()

    provider = EmulatedProvider(deliver=noting)
    async with served(provider) as port, adapter() as calls:
        spec, channels = source(f"127.0.0.1:{port}"), calls._channels
        for group in ("a", "a", "b"):
            await calls.call(call_of(spec, principal=principal(group)), RecordedProgress())
        # What rests from here on is closed soon; between the calls so far a busy machine may take longer.
        channels._idle_seconds = 0.05
        for group in ("a", "b"):
            await calls.call(call_of(spec, principal=principal(group)), RecordedProgress())
        assert len(set(peers)) == 2
        await until(lambda: not len(channels))
        await calls.call(call_of(spec, principal=principal("a")), RecordedProgress())
    assert len(set(peers)) == 3


# Through the gateway


async def test_the_gateway_calls_a_provider_with_the_secret_of_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "marked-key-41b7aa90"
    limits: list[float] = []

    async def talkative(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        yield accepted()
        provider.work(request)
        limits.append(context.time_remaining())
        if request.tool == "cut":
            await context.abort(grpc.StatusCode.UNKNOWN, f"lost {dict(context.invocation_metadata())['x-key']}")
        repeated = json.dumps({"key": dict(context.invocation_metadata())["x-key"]})
        yield result(repeated, structured_json=repeated if request.tool == "repeat" else request.arguments_json)

    write_authority(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    provider = EmulatedProvider(deliver=talkative)
    auth = SourceAuth(AuthKind.SECRET, secret_name="tools/billing", header="x-key", prefix="")
    async with served(provider, directory=tmp_path) as port:
        spec = source(f"localhost:{port}", plaintext=False, auth=auth, share=(ShareField.GROUP, ShareField.SUBJECT))
        sources = FixedSources([spec])
        async with serve_services(tmp_path / "data", "tools", sources=sources) as harness:
            request = secret_pb2.PutSecretRequest(
                name="tools/billing", value=key, allowed_origins=[f"https://localhost:{port}"]
            )
            await SecretServiceStub(harness.channel(ALICE)).PutSecret(request)
            gateway = GatewayCaller.of(harness)
            [listed] = await gateway.list(sources.sources[0].id)
            paid = await gateway.call("billing/pay", '{"amount": 9007199254740993, "none": null}', call_id="call-77")
            again = await gateway.call("billing/pay", "{}", call_id="call-77")
            cut, repeated = (
                await gateway.call("billing/cut"),
                await gateway.call("billing/repeat", max_timeout=Duration(seconds=5000)),
            )
    assert listed.name == "pay"
    assert json.loads(paid.result.structured_json) == {"amount": 9007199254740993, "none": None}
    assert again.replayed
    assert again.result == paid.result
    assert cut.WhichOneof("outcome") == "unknown"
    assert [limit > 1000 for limit in limits] == [False, False, True], "a provider knows how long anybody waits"
    assert set(provider.made.values()) == {1}
    assert [metadata["x-key"] for metadata in provider.metadata] == [key] * 4
    assert provider.delivered[0].caller == pb.Caller(group="sales", subject="dev|alice")
    assert json.loads(repeated.result.structured_json) == {"key": "[secret]"}
    assert key not in str([listed, paid, cut, repeated])
    assert key not in "".join(capfd.readouterr())
