"""Answers are found again under the hash of their request, in this release and the next."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coxswain.models.v1 import inference_pb2 as pb
from services.common.grpc.json_values import to_struct
from services.orchestrator.domain.execution import Usage
from services.orchestrator.worker.host.model_messages import Answer, AnswerParts, request_hash

REQUEST = pb.Completion(
    model="m",
    sampling=pb.Sampling(temperature=0.5),
    messages=[
        pb.Message(role=pb.MESSAGE_ROLE_SYSTEM, content=[pb.ContentPart(text="Do.")]),
        pb.Message(
            role=pb.MESSAGE_ROLE_USER,
            content=[pb.ContentPart(text="Read: "), pb.ContentPart(material="The sea. é")],
        ),
        pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=[pb.ToolCall(id="1", name="t", arguments_json="{}")]),
        pb.Message(role=pb.MESSAGE_ROLE_TOOL, tool_call_id="1", content=[pb.ContentPart(text="done")]),
    ],
    tools=[
        pb.ToolDefinition(
            name="t",
            description="d",
            parameters_schema=to_struct(
                {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 2.5}}}
            ),
        )
    ],
    response_format=pb.ResponseFormat(name="R", schema=to_struct({"type": "object"})),
)


def test_a_request_has_the_hash_under_which_earlier_releases_kept_its_answer() -> None:
    assert request_hash(REQUEST, "") == "e7bc4c1f7b91d3d126a46ca3328c428d2c3767d2e0b0b6502a23aad022bfa2be"
    assert request_hash(REQUEST, "approval-1") == "2e2aad59d98f5d7777b2b3f3c6cd87eb162dbc25ebaca18af286955e684a5ab4"
    plain = pb.Completion(
        model="m", messages=[pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text="Hi")])]
    )
    assert request_hash(plain, "") == "e6bf5a15e69c6a09dc85d0bd3c49b786210d2780550649b37b6dd9a801cc0acc"


@pytest.mark.parametrize(
    "change",
    [
        pb.Completion(model="n"),
        pb.Completion(sampling=pb.Sampling(temperature=0.25)),
        pb.Completion(sampling=pb.Sampling(max_output_tokens=9)),
        pb.Completion(sampling=pb.Sampling(reasoning_effort="low")),
        pb.Completion(messages=[pb.Message(role=pb.MESSAGE_ROLE_USER)]),
        pb.Completion(tools=[pb.ToolDefinition(name="u")]),
        pb.Completion(response_format=pb.ResponseFormat(name="S")),
        pb.Completion(response_format=pb.ResponseFormat(schema=to_struct({"type": "array"}))),
    ],
)
def test_another_request_has_another_hash(change: pb.Completion) -> None:
    other = copy.deepcopy(REQUEST)
    other.MergeFrom(change)
    assert request_hash(other, "") != request_hash(REQUEST, "")


def test_every_field_that_crews_set_counts() -> None:
    never_set = {"tool_choice", "top_p", "stop", "seed"}
    never_set |= {"thinking_budget_tokens", "extra_parameters", "parallel_tool_calls"}
    # The host sets them on every call once the hash is made: they change no answer.
    never_set |= {"drop_unsupported_parameters", "labels"}
    for message in (pb.Completion, pb.Sampling):
        fields = {field.name for field in message.DESCRIPTOR.fields}
        counted = {"model", "messages", "tools", "response_format", "sampling"}
        counted |= {"temperature", "max_output_tokens", "reasoning_effort"}
        assert fields - never_set <= counted


def _with(part: pb.ContentPart) -> str:
    other = copy.deepcopy(REQUEST)
    other.messages[1].content.append(part)
    return request_hash(other, "")


def test_what_a_message_shows_counts() -> None:
    parts = [
        pb.ContentPart(image=pb.Image(data=b"one")),
        pb.ContentPart(image=pb.Image(data=b"other")),
        pb.ContentPart(image=pb.Image(data=b"one", detail="low")),
        pb.ContentPart(image=pb.Image(url="https://example.com/one.png")),
        pb.ContentPart(document=pb.Document(data=b"one")),
        pb.ContentPart(document=pb.Document(data=b"one", file_name="one")),
        pb.ContentPart(audio=pb.Audio(data=b"one")),
        pb.ContentPart(thinking=pb.Thinking(text="one", provider_state="s")),
        pb.ContentPart(thinking=pb.Thinking(text="one", provider_state="t")),
    ]
    hashes = [_with(part) for part in parts]
    assert hashes == [_with(copy.deepcopy(part)) for part in parts]
    assert len({*hashes, request_hash(REQUEST, "")}) == len(parts) + 1


def test_marks_for_a_cache_do_not_count() -> None:
    other = copy.deepcopy(REQUEST)
    other.messages[0].content[0].cache_mark = True
    assert request_hash(other, "") == request_hash(REQUEST, "")


def test_what_is_said_as_material_is_not_the_same_as_text() -> None:
    other = copy.deepcopy(REQUEST)
    other.messages[1].content[1].text = "The sea. é"
    assert request_hash(other, "") != request_hash(REQUEST, "")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    TEXTS,
    st.lists(st.builds(pb.ToolCall, id=TEXTS, name=TEXTS, arguments_json=TEXTS, provider_state=TEXTS), max_size=3),
    st.lists(st.builds(pb.Thinking, text=TEXTS, provider_state=TEXTS), max_size=2),
)
def test_a_kept_answer_is_the_same_answer_and_costs_nothing_more(
    text: str, calls: list[pb.ToolCall], thinking: list[pb.Thinking]
) -> None:
    answer = Answer(text, dict(enumerate(calls)), Usage(1, 3, 2, 0.5), finished=True, thinking=thinking)
    kept = Answer.from_bytes(answer.to_bytes())
    assert kept.to_proto() == answer.to_proto()
    assert (kept.usage, kept.finished) == (Usage(), True)


def test_answers_kept_by_earlier_releases_are_read() -> None:
    kept = b'{"text":"Hm.","tool_calls":[{"id":"c","name":"n","arguments":"{}"}],"usage":[9,9,1.0]}'
    calls = [pb.ToolCall(id="c", name="n", arguments_json="{}")]
    assert Answer.from_bytes(kept).to_proto() == pb.CompleteResponse(text="Hm.", tool_calls=calls)


def test_an_answer_is_put_together_in_the_order_of_its_stream() -> None:
    pieces = [pb.Thinking(text="one", provider_state="s"), pb.Thinking(provider_state="t")]
    parts = AnswerParts()
    for delta in (
        pb.StreamCompleteResponse(reasoning="one"),
        *(pb.StreamCompleteResponse(thinking=piece) for piece in pieces),
        pb.StreamCompleteResponse(text="s"),
        pb.StreamCompleteResponse(tool_call=pb.ToolCallDelta(index=1, id="b", name="n", arguments_json='{"a"')),
        pb.StreamCompleteResponse(tool_call=pb.ToolCallDelta(index=0, id="a", name="m")),
        pb.StreamCompleteResponse(tool_call=pb.ToolCallDelta(index=1, arguments_json=": 1}")),
        pb.StreamCompleteResponse(text="ö"),
    ):
        parts.add(delta)
    answer = parts.answer()
    calls = [pb.ToolCall(id="a", name="m"), pb.ToolCall(id="b", name="n", arguments_json='{"a": 1}')]
    assert answer.to_proto() == pb.CompleteResponse(text="sö", thinking=pieces, tool_calls=calls)
    assert not answer.finished
    # Reasoning is not kept, unless the model wants it back: then it counts once.
    assert parts.reasoning_bytes == 3
    assert parts.kept_bytes == sum(piece.ByteSize() for piece in pieces) + len('sö{"a": 1}bnam'.encode())
