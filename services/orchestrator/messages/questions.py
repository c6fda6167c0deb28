"""Questions: domain to messages, and answers to domain."""

from coxswain.common.v1 import access_pb2
from coxswain.orchestrator.v1 import execution_pb2, question_pb2, question_state_pb2
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.grpc.json_values import from_value, to_struct, to_value
from services.common.grpc.times import timestamp_to_proto
from services.orchestrator.domain.question import Answer, Question, QuestionedCall, QuestionKind, QuestionState
from services.orchestrator.messages.executions import output_to_proto
from services.orchestrator.repositories.questions import QuestionFilter

CONTENT = "accept.content"
"""The field of an answer that holds its content."""


def question_to_proto(question: Question) -> question_pb2.Question:
    """Return a question as callers see it."""
    answer = question.answer
    message = question_pb2.Question(
        id=question.id,
        kind=enum_to_proto(question_state_pb2.QuestionKind, question.kind),
        state=enum_to_proto(question_state_pb2.QuestionState, question.state),
        execution_id=question.execution_id,
        crew_id=question.crew_id,
        crew_name=question.crew_name,
        task_name=question.task_name,
        task_index=question.task_index,
        attempt=question.attempt,
        text=question.text,
        schema=None if question.schema is None else to_struct(question.schema),
        role=enum_to_proto(access_pb2.Role, question.role),
        deadline=timestamp_to_proto(question.deadline_at),
        on_deadline=enum_to_proto(question_state_pb2.OnDeadline, question.on_deadline),
        create_time=timestamp_to_proto(question.created_at),
        answer_time=timestamp_to_proto(question.answered_at),
        answered_by=question.answered_by,
        accepted_content=None if answer is None or answer.content is None else to_value(answer.content),
        decline_reason="" if answer is None else answer.reason,
    )
    if question.result is not None:
        message.result.CopyFrom(output_to_proto(question.result))
    if question.call is not None:
        message.call.CopyFrom(_call_to_proto(question.call))
    return message


def _call_to_proto(call: QuestionedCall) -> question_pb2.QuestionedCall:
    return question_pb2.QuestionedCall(
        call_id=call.call_id,
        tool_name=call.tool,
        source=call.source,
        arguments_json=call.arguments,
        agent_role=call.agent_role,
        agent_text=call.agent_text,
        begin_time=timestamp_to_proto(call.begun_at),
        observation=call.observation,
        url=call.url,
    )


def filter_from_proto(message: question_pb2.ListQuestionsRequest) -> QuestionFilter:
    """Return which questions a request is about."""
    return QuestionFilter(
        [enum_from_proto(QuestionState, question_state_pb2.QuestionState, state) for state in message.states],
        [enum_from_proto(QuestionKind, question_state_pb2.QuestionKind, kind) for kind in message.kinds],
        message.execution_id,
        message.crew_id,
    )


def answer_from_proto(message: question_pb2.AnswerQuestionRequest) -> Answer:
    """Return a person's answer.

    Raises:
        InvalidArgument: the content is null, or a number in it is not finite or beyond 2^53.
    """
    match message.WhichOneof("answer"):
        case "accept":
            return Answer(QuestionState.ACCEPTED, _content(message.accept))
        case "decline":
            return Answer(QuestionState.DECLINED, reason=message.decline.reason)
        case _:
            return Answer(QuestionState.CANCELLED)


def _content(message: question_pb2.AcceptQuestion) -> object:
    if not message.HasField("content"):
        return None
    content = from_value(CONTENT, message.content, exact=True)
    if content is None:
        raise InvalidArgument.field(CONTENT, "must not be null; leave it out to accept without a content")
    return content


def raised_to_proto(question: Question) -> execution_pb2.QuestionRaised:
    """Return the event that people are asked a question."""
    raised = execution_pb2.QuestionRaised(
        question_id=question.id,
        kind=enum_to_proto(question_state_pb2.QuestionKind, question.kind),
        text=question.text,
        result=None if question.result is None else output_to_proto(question.result),
        deadline=timestamp_to_proto(question.deadline_at),
    )
    if question.call is not None:
        raised.tool_name = question.call.tool
    return raised
