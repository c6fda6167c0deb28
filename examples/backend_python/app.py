"""A backend that runs crews for its own users: each acts with their own token, and sees live what their crew does.

Run it: COXSWAIN_ADDRESS=127.0.0.1:50051 uvicorn app:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import grpc
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from google.protobuf.json_format import MessageToDict, MessageToJson
from pydantic import BaseModel

from coxswain.client import AsyncClient, CoxswainError, load_crew
from coxswain.orchestrator.v1.execution_pb2 import CancelExecutionRequest, Execution, GetExecutionRequest
from coxswain.orchestrator.v1.question_pb2 import AcceptQuestion, AnswerQuestionRequest, DeclineQuestion

CREW = load_crew(Path(__file__).with_name("crew.yaml"))

HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.UNPROCESSABLE_ENTITY,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.ABORTED: HTTPStatus.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}

# One connection serves all users: whose token a call carries is a matter of the request that makes it.
token: ContextVar[str] = ContextVar("token", default="")
client: AsyncClient


@asynccontextmanager
async def connected(_: FastAPI) -> AsyncIterator[None]:
    global client
    async with AsyncClient(os.environ.get("COXSWAIN_ADDRESS", ""), token=token.get) as client:
        yield


def user(authorization: Annotated[str, Header()] = "") -> str:
    """The bearer token of the user; Coxswain checks it and derives their group and role from it.

    Without one a call would be the development identity's, for which nobody has signed in.
    """
    bearer = authorization.removeprefix("Bearer ")
    if not bearer:
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "send the user's token", {"WWW-Authenticate": "Bearer"})
    return bearer


User = Annotated[str, Depends(user)]
app = FastAPI(title="Letters", lifespan=connected)


@app.exception_handler(CoxswainError)
async def refused(_: Request, error: CoxswainError) -> JSONResponse:
    """What Coxswain refuses, as HTTP has it: the reason to branch on, and the field to correct."""
    headers = {} if error.retry_after is None else {"Retry-After": str(round(error.retry_after) + 1)}
    content = {
        "message": error.message,
        "reason": error.reason,
        "fields": {violation.field: violation.description for violation in error.violations},
        "request_id": error.request_id,
    }
    status = HTTP_STATUS.get(error.code, HTTPStatus.BAD_GATEWAY)
    return JSONResponse(content, status, headers)


class Letter(BaseModel):
    text: str


class Answer(BaseModel):
    accept: bool
    text: str | None = None
    """With `accept` the letter to take instead; else what to do better."""


@app.post("/letters", status_code=HTTPStatus.ACCEPTED)
async def write(letter: Letter, bearer: User, idempotency_key: Annotated[str, Header()] = "") -> dict[str, Any]:
    """Start the crew for the user. The same Idempotency-Key starts it once, however often it is sent."""
    token.set(bearer)
    return shown(await client.start(CREW, {"text": letter.text}, request_id=idempotency_key))


@app.get("/letters/{letter_id}")
async def read(letter_id: str, bearer: User) -> dict[str, Any]:
    token.set(bearer)
    found = await client.executions.GetExecution(GetExecutionRequest(id=letter_id))
    return shown(found.execution)


@app.get("/letters/{letter_id}/events")
async def follow(letter_id: str, bearer: User, last_event_id: Annotated[int, Header()] = 0) -> StreamingResponse:
    """Live progress as server-sent events. Browsers reconnect by themselves and go on behind the last event."""
    token.set(bearer)
    # What is refused is refused before the stream begins.
    await client.executions.GetExecution(GetExecutionRequest(id=letter_id))

    async def events() -> AsyncIterator[str]:
        token.set(bearer)
        async for event in client.watch(letter_id, after_sequence=last_event_id):
            kind = event.WhichOneof("event")
            yield f"id: {event.sequence}\nevent: {kind}\ndata: {MessageToJson(event, indent=None)}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.post("/questions/{question_id}")
async def answer(question_id: str, given: Answer, bearer: User) -> dict[str, Any]:
    """Approve the letter, replace it, or send it back with what to do better."""
    token.set(bearer)
    request = AnswerQuestionRequest(id=question_id)
    if given.accept:
        request.accept.CopyFrom(AcceptQuestion())
        if given.text is not None:
            request.accept.content.string_value = given.text
    else:
        request.decline.CopyFrom(DeclineQuestion(reason=given.text or ""))
    answered = await client.questions.AnswerQuestion(request)
    return MessageToDict(answered.question)


@app.delete("/letters/{letter_id}")
async def cancel(letter_id: str, bearer: User) -> dict[str, Any]:
    token.set(bearer)
    cancelled = await client.executions.CancelExecution(CancelExecutionRequest(id=letter_id))
    return shown(cancelled.execution)


def shown(execution: Execution) -> dict[str, Any]:
    """The part of an execution that users of this backend see."""
    fields = MessageToDict(execution, preserving_proto_field_name=True)
    return {name: fields[name] for name in ("id", "state", "open_question_ids", "result", "error") if name in fields}
