"""What messages of other systems give to crews and to questions."""

from typing import Any

import pytest

from services.common.clock import utc_now
from services.common.errors import InvalidArgument
from services.common.identity.principal import Role
from services.orchestrator.domain.a2a import A2ASpec, readable_id
from services.orchestrator.domain.crew import AgentSpec, CrewSpec, OnDeadline, TaskSpec
from services.orchestrator.domain.question import Question, QuestionKind, QuestionState
from services.orchestrator.usecases.a2a.follow_ups import answer_to
from services.orchestrator.usecases.a2a.inputs import (
    IncomingMessage,
    MessagePart,
    PartKind,
    gathered,
    refuse_content,
)

FILE = MessagePart("message.parts[0]", PartKind.FILE, {"filename": "a.png", "bytes": ""}, "image/png")


def message(*parts: MessagePart | str | dict[str, Any] | bool, accepted: tuple[str, ...] = ()) -> IncomingMessage:
    """Return a message of texts, data and files."""
    made = []
    for part in parts:
        if isinstance(part, MessagePart):
            made.append(part)
        else:
            kind = PartKind.TEXT if isinstance(part, str) else PartKind.DATA
            made.append(MessagePart(f"message.parts[{len(made)}]", kind, part))
    return IncomingMessage("m", "", "", made, (), accepted, lambda *_: b"")


def crew(**a2a: Any) -> CrewSpec:
    """Return a published crew that needs a topic and scans."""
    return CrewSpec(
        name="crew",
        agents=(AgentSpec(name="a", role="r", goal="g", backstory="b"),),
        tasks=(TaskSpec(name="t", agent="a", description="{topic} {scans}", expected_output="x"),),
        a2a=A2ASpec(published=True, text_input="topic", file_input="scans", **a2a),
    )


def question(kind: QuestionKind = QuestionKind.RESULT_APPROVAL, schema: Any = None) -> Question:
    """Return an open question."""
    return Question(
        id="q",
        kind=kind,
        state=QuestionState.OPEN,
        group_id="g",
        execution_id="e",
        crew_id="c",
        crew_name="crew",
        task_index=0,
        task_name="t",
        attempt=1,
        text="?",
        result=None,
        schema=schema,
        role=Role.EDITOR,
        deadline_at=None,
        on_deadline=OnDeadline.DECLINE,
        created_at=utc_now(),
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("Daily brief", "daily-brief"), ("\u00dcber: H\u00e4fen!", "uber-hafen"), ("\u8239", "")]
)
def test_a_skill_of_its_own_is_named_after_the_crew(name: str, expected: str) -> None:
    assert readable_id(name) == expected


@pytest.mark.parametrize("action", [[], {}, ["decline"], 1, None, True])
def test_an_action_that_is_no_text_is_refused_as_an_approval(action: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        answer_to(question(), message({"action": action}))
    assert refused.value.violations[0].field == "message.parts[0].data"


@pytest.mark.parametrize("parts", [[FILE], [True], [""], ["  "], [FILE, True]])
@pytest.mark.parametrize("kind", [QuestionKind.RESULT_APPROVAL, QuestionKind.FORM, QuestionKind.URL])
def test_a_message_without_a_word_answers_nothing(kind: QuestionKind, parts: list[Any]) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}} if kind is QuestionKind.FORM else None
    with pytest.raises(InvalidArgument) as refused:
        answer_to(question(kind, schema), message(*parts))
    assert refused.value.violations[0].field == "message.parts"


def test_words_beside_a_file_answer() -> None:
    assert answer_to(question(), message(FILE, "Yes")).state is QuestionState.ACCEPTED
    declined = answer_to(question(), message(FILE, "Too long."))
    assert (declined.state, declined.reason) == (QuestionState.DECLINED, "Too long.")


def test_texts_are_no_files_and_files_leave_texts_as_they_are() -> None:
    before = gathered(crew(), message("ships"), {})
    assert before == {"topic": "ships"}
    with pytest.raises(InvalidArgument, match="scans"):
        gathered(crew(), message("boats"), before)
    assert gathered(crew(), message("Here they are.", FILE), before) == {"topic": "ships", "scans": [FILE.value]}
    assert gathered(crew(), message("ships", {"scans": []}), {}) == {"topic": "ships", "scans": []}


@pytest.mark.parametrize(
    ("modes", "sent", "taken"),
    [
        (("image/*",), "image/png", True),
        (("*/*",), "image/png", True),
        (("image/png",), "IMAGE/PNG; q=1", True),
        (("image/png",), "image/*", False),
        (("image/png",), "*/*", False),
        (("image/*",), "text/plain", False),
    ],
)
def test_wildcards_are_the_agent_s_where_parts_are_sent(modes: tuple[str, ...], sent: str, taken: bool) -> None:
    part = MessagePart("message.parts[0]", PartKind.FILE, {}, sent)
    if taken:
        refuse_content(crew(input_modes=modes), message(part))
    else:
        with pytest.raises(InvalidArgument, match=r"parts\[0\]\.media_type"):
            refuse_content(crew(input_modes=modes), message(part))


@pytest.mark.parametrize(("offered", "accepted"), [("image/*", "image/png"), ("image/png", "image/*"), ("a/b", "*/*")])
def test_wildcards_count_on_both_sides_of_answers(offered: str, accepted: str) -> None:
    refuse_content(crew(output_modes=(offered,), input_modes=("text/plain",)), message("x", accepted=(accepted,)))
