"""Questions on the command line and in the client, in memory and over real gRPC."""

import io
import json
import re
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from rich.console import Console

from coxswain.client import AsyncClient, Client
from coxswain.client.cli.questions import _print, _summary
from coxswain.client.cli.session import Session
from coxswain.client.errors import Unimplemented
from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.v1 import question_pb2 as pb
from coxswain.orchestrator.v1 import question_state_pb2 as state_pb
from tests.integration.client.command_line import invoke, rows
from tests.integration.client.installation import Installation, Server, refuse
from tests.support.harness import ALICE


def asked(id_: str = "q1", **fields: Any) -> pb.Question:
    return pb.Question(
        **{
            "id": id_,
            "kind": state_pb.QUESTION_KIND_RESULT_APPROVAL,
            "state": state_pb.QUESTION_STATE_OPEN,
            "execution_id": "e",
            "crew_name": "brief",
            "task_name": "edit",
            "text": "Is this result good?",
            "result": execution_pb2.TaskOutput(text="A draft."),
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--approve"], pb.AnswerQuestionRequest(accept=pb.AcceptQuestion())),
        (["--refuse", "more"], pb.AnswerQuestionRequest(decline=pb.DeclineQuestion(reason="more"))),
        (["--refuse", ""], pb.AnswerQuestionRequest(decline=pb.DeclineQuestion())),
        (["--cancel"], pb.AnswerQuestionRequest(cancel=pb.CancelQuestion())),
    ],
)
def test_a_question_is_answered(
    server: Server, installation: Installation, arguments: list[str], answer: pb.AnswerQuestionRequest
) -> None:
    installation.questions = [asked()]
    result = invoke(server.address, "answer", "q1", *arguments)
    assert (result.exit_code, result.stdout) == (0, "accepted: execution e\n"), result.stderr
    sent = installation.requests[-1]
    assert sent.request_id
    answer.id, answer.request_id = "q1", sent.request_id
    assert sent == answer


def asked_about_call(kind: state_pb.QuestionKind.ValueType, **fields: Any) -> pb.Question:
    question = asked(kind=kind, result=None, text="May it be called?", **fields)
    question.call.CopyFrom(
        pb.QuestionedCall(
            tool_name="billing/pay",
            arguments_json='{"amount": 500}',
            agent_role="Clerk",
            agent_text="Now I pay.",
            observation="cut off",
        )
    )
    question.schema.update({"type": "object"})
    return question


@pytest.mark.parametrize(
    ("kind", "arguments", "content"),
    [
        (state_pb.QUESTION_KIND_TOOL_APPROVAL, ["--approve"], None),
        (
            state_pb.QUESTION_KIND_TOOL_APPROVAL,
            ["--approve", "--remember"],
            {"decision": "call", "remember": True},
        ),
        (
            state_pb.QUESTION_KIND_TOOL_APPROVAL,
            ["--edit", "FILE"],
            {"decision": "call_edited", "arguments": {"amount": 5.0}},
        ),
        (
            state_pb.QUESTION_KIND_OUTCOME_UNKNOWN,
            ["--happened", "receipt 7"],
            {"happened": True, "result": "receipt 7"},
        ),
        (state_pb.QUESTION_KIND_OUTCOME_UNKNOWN, ["--not-happened"], {"happened": False}),
        (state_pb.QUESTION_KIND_FORM, ["--edit", "FILE"], {"amount": 5.0}),
        (state_pb.QUESTION_KIND_URL, ["--approve"], None),
    ],
)
def test_questions_of_tools_are_answered(
    server: Server,
    installation: Installation,
    tmp_path: Path,
    kind: state_pb.QuestionKind.ValueType,
    arguments: list[str],
    content: Any,
) -> None:
    installation.questions = [asked_about_call(kind)]
    file = tmp_path / "content.json"
    file.write_text('{"amount": 5}')
    result = invoke(server.address, "answer", "q1", *(str(file) if a == "FILE" else a for a in arguments))
    assert result.exit_code == 0, result.stderr
    accept = installation.requests[-1].accept
    assert accept.HasField("content") == (content is not None)
    if content is not None:
        assert json_format.MessageToDict(accept.content) == content


def test_a_question_of_a_tool_shows_the_call(server: Server, installation: Installation) -> None:
    installation.questions = [asked_about_call(state_pb.QUESTION_KIND_OUTCOME_UNKNOWN)]
    listed = invoke(server.address, "questions").stdout
    assert 'billing/pay {"amount": 500}' in listed
    shown = invoke(server.address, "answer", "q1")
    assert shown.exit_code == 2
    assert "Now I pay." in shown.stderr
    assert "seen of it: cut off" in shown.stderr
    assert "--happened RESULT" in shown.stderr
    wrong = invoke(server.address, "answer", "q1", "--refuse", "no", "--remember")
    assert wrong.exit_code == 2
    assert installation.calls["AnswerQuestion"] == 0


def test_an_edited_result_is_a_text_or_follows_the_schema(
    server: Server, installation: Installation, tmp_path: Path
) -> None:
    installation.questions = [asked(), asked("q2")]
    installation.questions[1].schema.update({"type": "object"})
    file = tmp_path / "better.json"
    file.write_text('{"title": "T"}')
    assert invoke(server.address, "answer", "q1", "--edit", str(file)).exit_code == 0
    assert installation.requests[-1].accept.content.string_value == '{"title": "T"}'
    assert invoke(server.address, "answer", "q2", "--edit", str(file)).exit_code == 0
    assert installation.requests[-1].accept.content.struct_value["title"] == "T"
    file.write_text("A text.")
    result = invoke(server.address, "answer", "q2", "--edit", str(file))
    assert result.exit_code == 2
    assert "not valid JSON, which the question's schema asks for" in result.stderr
    assert installation.calls["AnswerQuestion"] == 2


@pytest.mark.parametrize("arguments", [["--approve", "--cancel"], ["--refuse", "x", "--approve"]])
def test_two_answers_are_none(server: Server, installation: Installation, arguments: list[str]) -> None:
    result = invoke(server.address, "answer", "q1", *arguments)
    assert result.exit_code == 2
    named = [option for option in ("--approve", "--refuse", "--cancel") if option in arguments]
    assert f"give one of {', '.join(named)}" in " ".join(result.stderr.replace("│", " ").split())
    assert installation.calls["AnswerQuestion"] == 0


def test_where_nobody_can_be_asked_nothing_is_answered(server: Server, installation: Installation) -> None:
    installation.questions = [asked()]
    result = invoke(server.address, "answer", "q1", stdin="y\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "A draft." in result.stderr, "the result is shown"
    assert "answer it with --approve, --refuse FEEDBACK or --edit FILE; --cancel ends the execution" in result.stderr
    installation.questions[0].state = state_pb.QUESTION_STATE_CLOSED
    result = invoke(server.address, "answer", "q1")
    assert result.exit_code == 2
    assert "the question is closed already" in result.stderr
    assert installation.calls["AnswerQuestion"] == 0


FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "amount": {"type": "integer", "title": "Amount", "minimum": 1},
        "currency": {"enum": ["EUR", "NOK"], "default": "NOK"},
        "note": {"type": "string"},
    },
    "required": ["amount"],
    "additionalProperties": False,
}
ONE_FIELD = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
CALL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "decision": {"enum": ["call", "call_edited", "refuse"]},
        "arguments": {"type": "object", "properties": {"amount": {"type": "number"}, "to": {"type": "string"}}},
    },
}


def asked_with(kind: state_pb.QuestionKind.ValueType, schema: dict[str, Any]) -> pb.Question:
    question = asked_about_call(kind)
    question.schema.Clear()
    question.schema.update(schema)
    return question


@pytest.mark.parametrize(
    ("question", "arguments", "content"),
    [
        (asked_with(state_pb.QUESTION_KIND_FORM, ONE_FIELD), ["--answer", "Bergen"], {"answer": "Bergen"}),
        # Numbers are numbers, and what has a default need not be given.
        (
            asked_with(state_pb.QUESTION_KIND_FORM, FORM),
            ["--field", "amount=20", "--field", "note=two = 2"],
            {"amount": 20, "currency": "NOK", "note": "two = 2"},
        ),
        (
            asked_with(state_pb.QUESTION_KIND_FORM, FORM),
            ["--content", '{"amount": 3, "currency": "EUR"}'],
            {"amount": 3, "currency": "EUR"},
        ),
        # Other arguments stay as they are.
        (
            asked_with(state_pb.QUESTION_KIND_TOOL_APPROVAL, CALL),
            ["--field", "to=NO93"],
            {"decision": "call_edited", "arguments": {"amount": 500, "to": "NO93"}},
        ),
        (
            asked_with(state_pb.QUESTION_KIND_OUTCOME_UNKNOWN, {}),
            ["--content", '{"receipt": 7}'],
            {"happened": True, "result": {"receipt": 7}},
        ),
    ],
)
def test_fields_are_given_by_name(
    server: Server, installation: Installation, question: pb.Question, arguments: list[str], content: Any
) -> None:
    installation.questions = [question]
    result = invoke(server.address, "answer", "q1", *arguments)
    assert result.exit_code == 0, result.stderr
    assert json_format.MessageToDict(installation.requests[-1].accept.content) == content


@pytest.mark.parametrize(
    ("question", "arguments", "said"),
    [
        (
            asked_with(state_pb.QUESTION_KIND_FORM, FORM),
            ["--field", "amount=much"],
            "amount: expected whole number from 1, not 'much'",
        ),
        (asked_with(state_pb.QUESTION_KIND_FORM, FORM), ["--field", "note=x"], "amount: is missing"),
        (asked_with(state_pb.QUESTION_KIND_FORM, FORM), ["--approve"], "amount: is missing"),
        (asked_with(state_pb.QUESTION_KIND_FORM, FORM), ["--field", "amout=3"], "did you mean 'amount'?"),
        (
            asked_with(state_pb.QUESTION_KIND_FORM, FORM),
            ["--field", "amount=3", "--field", "currency=SEK"],
            "currency: expected one of EUR, NOK, not 'SEK'",
        ),
        (asked_with(state_pb.QUESTION_KIND_FORM, FORM), ["--answer", "x"], "give --field NAME=VALUE for each"),
        (asked_with(state_pb.QUESTION_KIND_FORM, FORM), ["--happened", "x"], "does not answer this question (form)"),
        (asked_with(state_pb.QUESTION_KIND_OUTCOME_UNKNOWN, {}), ["--approve"], "--happened RESULT"),
        (asked_about_call(state_pb.QUESTION_KIND_URL), ["--edit", "FILE"], "--approve when you have been there"),
        (asked(), ["--answer", "good"], "--refuse FEEDBACK or --edit FILE"),
        (asked(), ["--content", "{}"], "--refuse FEEDBACK or --edit FILE"),
    ],
)
def test_what_is_no_answer_is_told_in_words_of_the_question(
    server: Server, installation: Installation, question: pb.Question, arguments: list[str], said: str
) -> None:
    installation.questions = [question]
    result = invoke(server.address, "answer", "q1", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert installation.calls["AnswerQuestion"] == 0


def test_a_form_shows_its_fields(server: Server, installation: Installation) -> None:
    installation.questions = [asked_with(state_pb.QUESTION_KIND_FORM, FORM)]
    listed = invoke(server.address, "questions")
    shown = invoke(server.address, "answer", "q1")
    for text in (listed.stdout, shown.stderr):
        assert "  amount (whole number from 1; required) Amount." in text
        assert "  currency (one of EUR, NOK; may be left out, NOK by default)" in text
    assert "--field NAME=VALUE" in shown.stderr
    assert "coxswain answer ID" in listed.stderr


@pytest.mark.parametrize(
    ("question", "typed", "exit_code", "answer"),
    [
        (asked(), "approve\n", 0, {"accept": {}}),
        (asked(), "r\nname the sources\n", 0, {"decline": {"reason": "name the sources"}}),
        (asked(), "later\n", 1, None),
        (asked(), "what\ncancel\n", 0, {"cancel": {}}),
        (
            asked_with(state_pb.QUESTION_KIND_FORM, ONE_FIELD),
            "answer\n\nBergen\n",
            0,
            {"accept": {"content": {"answer": "Bergen"}}},
        ),
        (
            asked_with(state_pb.QUESTION_KIND_FORM, FORM),
            "answer\nmany\n3\neur\n\n",
            0,
            {"accept": {"content": {"amount": 3, "currency": "EUR"}}},
        ),
        (
            asked_with(state_pb.QUESTION_KIND_TOOL_APPROVAL, CALL),
            "edit\n5\nNO93\n",
            0,
            {"accept": {"content": {"decision": "call_edited", "arguments": {"amount": 5, "to": "NO93"}}}},
        ),
        (
            asked_with(state_pb.QUESTION_KIND_TOOL_APPROVAL, CALL),
            "always\n",
            0,
            {"accept": {"content": {"decision": "call", "remember": True}}},
        ),
        (
            asked_with(state_pb.QUESTION_KIND_OUTCOME_UNKNOWN, {}),
            "happened\nreceipt 7\n",
            0,
            {"accept": {"content": {"happened": True, "result": "receipt 7"}}},
        ),
        (
            asked_with(state_pb.QUESTION_KIND_OUTCOME_UNKNOWN, {}),
            "n\n",
            0,
            {"accept": {"content": {"happened": False}}},
        ),
        (asked_about_call(state_pb.QUESTION_KIND_URL), "approve\n", 0, {"accept": {}}),
    ],
)
def test_on_a_terminal_each_kind_is_answered_by_typing(
    server: Server,
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    question: pb.Question,
    typed: str,
    exit_code: int,
    answer: Any,
) -> None:
    installation.questions = [question]
    monkeypatch.setattr("coxswain.client.cli.answers.on_terminal", lambda: True)
    result = invoke(server.address, "answer", "q1", stdin=typed)
    assert result.exit_code == exit_code, result.stderr
    assert installation.calls["AnswerQuestion"] == (answer is not None)
    if answer is not None:
        sent = json_format.MessageToDict(installation.requests[-1])
        assert {key: sent[key] for key in sent.keys() - {"id", "requestId"}} == answer


def test_questions_are_listed_for_people_and_programs(server: Server, installation: Installation) -> None:
    result = invoke(server.address, "questions")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no open questions" in result.stderr
    installation.questions = [asked(result=execution_pb2.TaskOutput(text="Two\nlines\x1b[31m"))]
    result = invoke(server.address, "questions")
    assert result.stdout.splitlines() == [
        "q1  open",
        "  brief / edit, 1970-01-01 00:00 UTC",
        "  Is this result good?",
        "  > Two lines\ufffd[31m",
    ]
    assert list(installation.requests[-1].states) == [state_pb.QUESTION_STATE_OPEN]
    [[listed]] = rows(invoke(server.address, "questions", "--all", "--json"))
    assert (listed["id"], list(installation.requests[-1].states)) == ("q1", [])
    result = invoke(server.address, "questions", "--watch", "--crew", "brief")
    assert result.exit_code == 2


def test_a_question_can_be_read_in_sixty_columns() -> None:
    long = "A result of many words, none of which is long. " * 9
    question = asked("01a20694-1f86-7c54-8594-1ba930202397", result=execution_pb2.TaskOutput(text=long))
    question.deadline.FromSeconds(1_800_000_000)
    question.on_deadline = state_pb.ON_DEADLINE_ACCEPT_DEFAULT
    output = io.StringIO()
    session = Session(out=Console(file=output, width=60, force_terminal=True, color_system=None))
    _print(session, _summary(question))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0] == "01a20694-1f86-7c54-8594-1ba930202397  open"
    assert "  until 2027-01-15 08:00 UTC, then accept default" in lines


async def test_a_watch_goes_on_after_a_lost_connection(server: Server, installation: Installation) -> None:
    installation.questions = [asked(f"q{number}") for number in range(1, 6)]
    installation.watch_breaks_after = [
        (2, lambda context: refuse(context, grpc.StatusCode.UNAVAILABLE, "shutting down")),
        (4, lambda context: refuse(context, grpc.StatusCode.UNAVAILABLE, "shutting down")),
    ]
    seen = []
    async with AsyncClient(server.address, token=ALICE) as client:
        async for change in client.watch_questions():
            seen.append((change.sequence, change.question.id))
            if len(seen) == 5:
                break
    assert seen == [(number, f"q{number}") for number in range(1, 6)]
    assert installation.watched_after == [0, 2, 4]
    installation.watch_breaks_after = [
        (3, lambda context: refuse(context, grpc.StatusCode.PERMISSION_DENIED, "no member any more"))
    ]
    with Client(server.address, token=ALICE) as blocking, pytest.raises(Exception, match="no member any more"):
        for change in blocking.watch_questions(1):
            seen.append((change.sequence, change.question.id))
    assert seen[5:] == [(2, "q2"), (3, "q3")]


def test_a_watch_says_that_its_connection_is_lost_and_back(server: Server, installation: Installation) -> None:
    installation.questions = [asked("q1")]
    installation.watch_breaks_after = [
        (1, lambda context: refuse(context, grpc.StatusCode.UNAVAILABLE, "gone")),
        # The connection is back although nothing new is asked.
        (0, lambda context: refuse(context, grpc.StatusCode.PERMISSION_DENIED, "no member any more")),
    ]
    result = invoke(server.address, "questions", "--watch")
    lost, back, refused, *_ = result.stderr.splitlines()
    assert re.fullmatch(r"the connection was lost at [\d:]{8} UTC \(UNAVAILABLE\); reconnecting", lost)
    assert re.fullmatch(r"reconnected after \d+ s", back)
    assert "no member any more" in refused


async def test_a_watch_is_back_once_there_is_an_answer_from_what_it_needs(
    server: Server, installation: Installation
) -> None:
    def late(context: Any) -> None:
        refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "the database does not answer")

    def break_off() -> None:
        installation.watch_breaks_after = [(1, lambda context: refuse(context, grpc.StatusCode.UNAVAILABLE, "gone"))]
        # That the server is alive is not enough; that it refuses something is.
        refused = lambda context: refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")  # noqa: E731
        installation.faults["ListQuestions"] = [late, late, refused]

    installation.questions = [asked("q1"), asked("q2")]
    said = list[str]()
    told: Any = {"on_outage": lambda error: said.append(error.code.name), "on_return": lambda: said.append("back")}
    break_off()
    with Client(server.address, token=ALICE) as client, closing(client.watch_questions(**told)) as changes:
        assert [next(changes).sequence for _ in range(2)] == [1, 2]
    assert said == ["UNAVAILABLE"] * 3 + ["back"]
    said.clear()
    break_off()
    async with (
        AsyncClient(server.address, token=ALICE) as waiting,
        aclosing(waiting.watch_questions(**told)) as following,
    ):
        assert [(await anext(following)).sequence for _ in range(2)] == [1, 2]
    assert said == ["UNAVAILABLE"] * 3 + ["back"]


async def test_a_watch_goes_on_where_health_checks_are_not_routed(
    server: Server, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def healthy(*_: Any, **__: Any) -> Any:
        raise Unimplemented("the proxy knows no health checks")

    monkeypatch.setattr(Client, "healthy", healthy)
    installation.questions = [asked("q1"), asked("q2")]
    installation.watch_breaks_after = [(1, lambda context: refuse(context, grpc.StatusCode.UNAVAILABLE, "gone"))]
    with Client(server.address, token=ALICE) as client, closing(client.watch_questions()) as changes:
        assert [next(changes).sequence for _ in range(2)] == [1, 2]


def test_a_watch_prints_each_change_until_it_is_refused(server: Server, installation: Installation) -> None:
    installation.questions = [asked()]
    installation.watch_breaks_after = [
        (1, lambda context: refuse(context, grpc.StatusCode.PERMISSION_DENIED, "no member any more"))
    ]
    result = invoke(server.address, "questions", "--watch", "--json")
    [change] = [json.loads(line) for line in result.stdout.splitlines()]
    assert (change["sequence"], change["question"]["id"]) == ("1", "q1")
    assert result.exit_code == 10 + 7
