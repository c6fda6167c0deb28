"""Messages to agents whose answer does not come, or breaks off."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from a2a.types import a2a_pb2 as a2a

from coxswain.client.cli import agents
from coxswain.orchestrator.v1 import a2a_pb2
from tests.integration.client.command_line import invoke
from tests.integration.client.installation import Installation, Server


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(self: Installation, request: Any, context: Any) -> a2a_pb2.ListPublicationsResponse:
        return a2a_pb2.ListPublicationsResponse(publications=[a2a_pb2.Publication(crew_name="brief", tenant="t")])

    monkeypatch.setattr(Installation, "ListPublications", listed, raising=False)


@pytest.fixture
def events(published: None, server: Server) -> list[a2a.StreamResponse]:
    """What the agent `brief` sends before the connection is lost."""
    sent: list[a2a.StreamResponse] = []

    def answer(request: Any, context: Any) -> Iterator[a2a.StreamResponse]:
        yield from sent
        context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    handler = grpc.unary_stream_rpc_method_handler(
        answer, a2a.SendMessageRequest.FromString, a2a.StreamResponse.SerializeToString
    )
    handlers = {"SendStreamingMessage": handler}
    server._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lf.a2a.v1.A2AService", handlers),))
    return sent


def begun() -> a2a.StreamResponse:
    made = a2a.StreamResponse()
    made.task.id, made.task.status.state = "task-1", a2a.TASK_STATE_WORKING
    made.task.metadata["coxswain/execution"] = "execution-1"
    return made


def test_a_lost_connection_says_where_the_task_continues(events: list[a2a.StreamResponse], server: Server) -> None:
    lost = invoke(server.address, "agents", "send", "brief", "ships")
    assert (lost.exit_code, "`coxswain executions` shows whether a task has begun" in lost.stderr) == (24, True)
    events.append(begun())
    lost = invoke(server.address, "agents", "send", "brief", "ships")
    assert lost.exit_code == 24
    assert "the task task-1 continues: `coxswain watch execution-1` follows it" in lost.stderr


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize(("received", "says"), [([], "no answer had come"), ([begun()], "coxswain watch execution-1")])
def test_an_interrupt_says_where_the_task_continues(
    server: Server, monkeypatch: pytest.MonkeyPatch, received: list[a2a.StreamResponse], says: str
) -> None:
    def interrupted(_: Any) -> Iterator[a2a.StreamResponse]:
        yield from received
        raise KeyboardInterrupt

    monkeypatch.setattr(agents, "_cancelling", interrupted)
    left = invoke(server.address, "agents", "send", "brief", "ships")
    assert (left.exit_code, says in left.stderr) == (130, True)


@pytest.mark.usefixtures("published")
def test_a_pipe_with_nothing_in_it_sends_nothing(server: Server) -> None:
    refused = invoke(server.address, "agents", "send", "brief", "-", stdin="\n")
    assert (refused.exit_code, "standard input is empty" in refused.stderr) == (2, True)
