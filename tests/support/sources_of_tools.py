"""Sources of tools as processes that can be killed, what a group makes of them, and crews that pay with them."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coxswain.auth.v1.secret_pb2 import PutSecretRequest
from coxswain.client import Client
from coxswain.orchestrator.v1 import question_pb2, question_state_pb2, tool_pb2, tool_source_pb2
from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, TaskSpec, ToolSpec
from coxswain.orchestrator.v1.execution_pb2 import Execution
from tests.support.installation import Caller
from tests.support.mcp_servers.processes import LEGACY, McpServerProcess, serving

PROVIDER = Path(__file__).with_name("provider_server.py")
SECRET = "tools/desk"


@dataclass
class Sources:
    """An MCP server, which keeps no calls, and a gRPC provider, which knows each call by its id."""

    desk: McpServerProcess
    till: McpServerProcess

    def declare(self, admin: Caller, secret: str, *, approval: bool = False) -> None:
        """Store both in the caller's group, the first with a secret."""
        put = PutSecretRequest(name=SECRET, value=secret, allowed_origins=[self.desk.url.removesuffix("/mcp")])
        admin.auth.secrets.PutSecret(put)
        always = tool_source_pb2.ToolPolicy(tools="pay", approval=tool_pb2.TOOL_APPROVAL_ALWAYS)
        specs = (
            tool_source_pb2.ToolSourceSpec(
                name="desk",
                mcp=tool_source_pb2.McpServer(url=self.desk.url),
                secret=tool_source_pb2.SecretAuth(secret_name=SECRET),
                policies=[always] if approval else [],
            ),
            tool_source_pb2.ToolSourceSpec(
                name="till", grpc=tool_source_pb2.GrpcProvider(address=f"127.0.0.1:{self.till.port}", plaintext=True)
            ),
        )
        for spec in specs:
            request = tool_source_pb2.CreateToolSourceRequest(spec=spec)
            source = admin.orchestrator.tool_sources.CreateToolSource(request).source
            assert not source.list_error, source.list_error

    def retract(self, admin: Caller) -> None:
        """Delete both."""
        for name in ("desk", "till"):
            request = tool_source_pb2.DeleteToolSourceRequest(name=name, force=True)
            admin.orchestrator.tool_sources.DeleteToolSource(request)


@contextlib.contextmanager
def sources_of_tools(directory: Path) -> Iterator[Sources]:
    """Run both for the time of a block."""
    with (
        serving(sys.executable, LEGACY, directory / "desk") as desk,
        serving(sys.executable, PROVIDER, directory / "till") as till,
    ):
        yield Sources(desk, till)


def paying_crew(name: str, text: str) -> CrewSpec:
    """Return a crew of one task, described by `text`, whose agent may pay at both sources."""
    tools = [ToolSpec(name="desk/pay"), ToolSpec(name="till/pay")]
    return CrewSpec(
        name=name,
        agents=[AgentSpec(name="clerk", role="Clerk", goal="Pay", backstory="Careful", tools=tools)],
        tasks=[TaskSpec(name="settle", description=text, expected_output="One line", agent="clerk")],
    )


def open_questions(client: Client, execution: Execution) -> list[question_pb2.Question]:
    """Return what an execution waits for."""
    states = [question_state_pb2.QUESTION_STATE_OPEN]
    request = question_pb2.ListQuestionsRequest(execution_id=execution.id, states=states)
    return list(client.questions.ListQuestions(request).questions)


def accept(client: Client, question: question_pb2.Question, content: dict[str, Any] | None = None) -> None:
    """Say yes to a question."""
    request = question_pb2.AnswerQuestionRequest(id=question.id, accept=question_pb2.AcceptQuestion())
    if content is not None:
        request.accept.content.struct_value.update(content)
    client.questions.AnswerQuestion(request)


def tell_what_became_of(client: Client, question: question_pb2.Question, sources: Sources) -> None:
    """Be the person who looks an unknown call up where it was made."""
    assert question.kind == question_state_pb2.QUESTION_KIND_OUTCOME_UNKNOWN
    source = {"desk": sources.desk, "till": sources.till}[question.call.source]
    happened = source.paid(json.loads(question.call.arguments_json)["key"]) > 0
    accept(client, question, {"happened": True, "result": "found paid"} if happened else {"happened": False})
