"""QuestionService at the edge."""

from collections.abc import AsyncIterator

from coxswain.orchestrator.v1 import question_pb2 as pb
from coxswain.orchestrator.v1.question_service_pb2_grpc import QuestionServiceServicer
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.orchestrator.messages.questions import answer_from_proto, filter_from_proto, question_to_proto
from services.orchestrator.usecases.questions import Questions


class QuestionServicer(QuestionServiceServicer):
    """Questions of groups."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    async def ListQuestions(self, request: pb.ListQuestionsRequest, context: Context) -> pb.ListQuestionsResponse:
        """See the proto."""
        page = await self._questions.page(
            current_principal(), filter_from_proto(request), request.page_size, request.page_token
        )
        return pb.ListQuestionsResponse(
            questions=map(question_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def GetQuestion(self, request: pb.GetQuestionRequest, context: Context) -> pb.GetQuestionResponse:
        """See the proto."""
        question = await self._questions.get(current_principal(), request.id)
        return pb.GetQuestionResponse(question=question_to_proto(question))

    async def WatchQuestions(
        self, request: pb.WatchQuestionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchQuestionsResponse]:
        """See the proto."""
        async for changes in self._questions.watch(current_principal(), request.after_sequence):
            for change in changes:
                yield pb.WatchQuestionsResponse(sequence=change.sequence, question=question_to_proto(change.question))

    async def AnswerQuestion(self, request: pb.AnswerQuestionRequest, context: Context) -> pb.AnswerQuestionResponse:
        """See the proto."""
        principal = current_principal()
        question = await self._questions.answer(
            principal, request.id, answer_from_proto(request), request_key(principal, request)
        )
        return pb.AnswerQuestionResponse(question=question_to_proto(question))
