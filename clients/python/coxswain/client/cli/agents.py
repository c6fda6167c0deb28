"""Commands about crews as agents of other systems (A2A): agents list, card, send."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from coxswain.client.cli.inputs import InputsOption, inputs_from
from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import (
    EXIT_INTERRUPTED,
    EXIT_NOT_SUCCEEDED,
    EXIT_USAGE,
    JsonOption,
    Session,
    add_row,
    session_of,
)
from coxswain.client.later import a2a_pb2, blocking_channel, errors, json_format, values
from coxswain.client.near import did_you_mean, near_names
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from a2a.types import a2a_pb2 as agent_pb2

app = typer.Typer(cls=ListingGroup, help="List the crews that other systems can call as agents; try one.")

AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="Name or id of its crew, or its tenant.")]
_VERSION = (("a2a-version", "1.0"),)
_WAITING = frozenset({"INPUT_REQUIRED", "AUTH_REQUIRED"})
_ENDED = frozenset({"COMPLETED", "FAILED", "CANCELED", "REJECTED"})


class _Agent(NamedTuple):
    tenant: str
    stub: Any
    messages: Any
    """The module of the protocol's messages."""


@app.command("list")
def list_agents(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the crews that other systems can call as agents; try one.

    Example: `coxswain agents list --json`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = a2a_pb2.ListPublicationsRequest(page_size=min(limit, 1000))
        found = list(pages(client.crews.ListPublications, request, "publications", limit))
    if session.json:
        return session.print_json(found)
    made = Listing("name", "tenant", "default", "card", "published", "id")
    for one in found:
        card = "public" if one.public_card else "for callers"
        add_row(
            made, one.crew_name, one.tenant, "yes" if one.is_default else "", card, When(one.create_time), one.crew_id
        )
    session.out.print(made)
    return None


@app.command()
def card(context: typer.Context, agent: AgentArgument, as_json: JsonOption = False) -> None:
    """Show how an agent presents itself to other systems; with --json, the card as A2A writes it.

    Example: `coxswain agents card brief --json`
    """
    session = session_of(context, as_json)
    with _agent(session, agent) as (tenant, stub, messages):
        found = stub.GetExtendedAgentCard(messages.GetExtendedAgentCardRequest(tenant=tenant), metadata=_VERSION)
    if session.json:
        return session.print_json(json_format.MessageToDict(found))
    session.show(f"{found.name}, version {found.version}")
    if found.description:
        session.show(found.description)
    for one in found.supported_interfaces:
        session.show(f"interface  {one.protocol_binding} {one.protocol_version} at {one.url}, tenant {one.tenant}")
    session.show(f"takes      {', '.join(found.default_input_modes)}")
    session.show(f"answers    {', '.join(found.default_output_modes)}")
    for skill in found.skills:
        tags = f" ({', '.join(skill.tags)})" if skill.tags else ""
        session.show(f"skill      {skill.name}{tags}: {' '.join(skill.description.split())}")
    return None


@app.command()
def send(
    context: typer.Context,
    agent: AgentArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say; - reads standard input.")] = "",
    given: InputsOption = None,
    task: Annotated[str, typer.Option(help="Task that waits for this message, as an earlier one named it.")] = "",
    context_id: Annotated[str, typer.Option("--context-id", help="Conversation that the message continues.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Send an agent a message over A2A, as other systems do, and show what comes until its task ends or waits.

    Results go to standard output, the task's states to standard error. With --json every event is a line of JSON.
    Exit code 1 means that the task is not completed: it failed, or waits for another message.

    Examples:

        coxswain agents send brief "Lighthouses of Brittany"

        coxswain agents send brief --input topic=ships --json

        coxswain agents send brief approve --task 01a20694-1f86-7c54-8594-1ba930202397
    """
    session = session_of(context, as_json)
    inputs = inputs_from(session, given)
    if text == "-":
        text = sys.stdin.read()
        if not text.strip():
            raise typer.BadParameter("standard input is empty", param_hint="TEXT")
    if not text and not inputs:
        raise typer.BadParameter("give a text, or inputs with --input", param_hint="TEXT")
    with _agent(session, agent) as (tenant, stub, messages):
        message = messages.Message(
            message_id=str(uuid.uuid4()), role=messages.ROLE_USER, task_id=task, context_id=context_id
        )
        if text:
            message.parts.add(text=text)
        if inputs:
            message.parts.add(data=values.to_value(inputs))
        request = messages.SendMessageRequest(tenant=tenant, message=message)
        followed = _Followed(session, agent, messages)
        try:
            with closing(_cancelling(stub.SendStreamingMessage(request, metadata=_VERSION))) as events:
                followed.until_it_ends_or_waits(events)
        except KeyboardInterrupt:
            session.say(followed.where_it_continues())
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except (errors.Unavailable, errors.DeadlineExceeded):
            session.say(followed.where_it_continues())
            raise
    if followed.state != "COMPLETED":
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


class _Followed:
    """A task as its stream tells of it."""

    def __init__(self, session: Session, agent: str, messages: Any) -> None:
        self.task_id = self.state = ""
        self._execution_id = ""
        self._session = session
        self._agent = agent
        self._messages = messages

    def until_it_ends_or_waits(self, events: Iterable[agent_pb2.StreamResponse]) -> None:
        """Show what comes. A task that waits for its sender does so until another command answers it."""
        for event in events:
            if self._session.json:
                self._session.print_json(json_format.MessageToDict(event))
            if event.HasField("task"):
                self.task_id = event.task.id
                if "coxswain/execution" in event.task.metadata:
                    self._execution_id = str(event.task.metadata["coxswain/execution"])
                self._enter(event.task.status, f"task {event.task.id}, context {event.task.context_id}: ")
                for artifact in event.task.artifacts:
                    self._show(artifact.parts)
            elif event.HasField("status_update"):
                self._enter(event.status_update.status, "")
            elif event.HasField("artifact_update"):
                self._show(event.artifact_update.artifact.parts)
            if self.state in _WAITING | _ENDED:
                break

    def where_it_continues(self) -> str:
        """What to do about a task that is not followed any more."""
        if not self.task_id:
            return "no answer had come: `coxswain executions` shows whether a task has begun"
        follow = f": `coxswain watch {self._execution_id}` follows it" if self._execution_id else ""
        return f"the task {self.task_id} continues{follow}"

    def _enter(self, status: agent_pb2.TaskStatus, prefix: str) -> None:
        self.state = self._messages.TaskState.Name(status.state).removeprefix("TASK_STATE_")
        if self._session.json:
            return
        self._session.say(f"{prefix}{self.state.lower().replace('_', ' ')}", "dim")
        for part in status.message.parts:
            if part.HasField("text"):
                self._session.say(part.text)
        if self.state in _WAITING:
            self._session.say(f"answer it with: coxswain agents send {self._agent} TEXT --task {self.task_id}")

    def _show(self, parts: Iterable[agent_pb2.Part]) -> None:
        if self._session.json:
            return
        for part in parts:
            if part.HasField("text"):
                self._session.show(part.text)
            elif part.HasField("data"):
                self._session.print_json(json_format.MessageToDict(part.data))
            elif part.HasField("raw"):
                self._session.say(f"file {part.filename}: {len(part.raw):,} bytes")


@contextmanager
def _agent(session: Session, reference: str) -> Iterator[_Agent]:
    """The agent of a name, and how to call it. Raises typer.Exit where the package of A2A is missing."""
    try:
        from a2a.types import a2a_pb2 as agent_pb2
        from a2a.types.a2a_pb2_grpc import A2AServiceStub
    except ImportError:
        session.fail(
            "this needs the messages of A2A; install the client's wheel with its extra a2a: "
            'pip install "$(echo build/coxswain_client-*.whl)[a2a]"'
        )
        raise typer.Exit(EXIT_USAGE) from None
    from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceStub

    channels = blocking_channel.open_blocking_channels(session.connection)
    try:
        channel = channels["orchestrator"]
        request = a2a_pb2.ListPublicationsRequest(page_size=1000)
        found = pages(CrewServiceStub(channel).ListPublications, request, "publications")
        stub: Any = A2AServiceStub
        yield _Agent(_tenant(found, reference), stub(channel), agent_pb2)
    finally:
        for channel in channels.values():
            channel.close()


def _tenant(publications: Iterable[a2a_pb2.Publication], reference: str) -> str:
    """The tenant that a name, id or tenant stands for. Raises typer.BadParameter where nothing of it is published."""
    names = []
    for one in publications:
        if reference in (one.crew_name, one.crew_id, one.tenant):
            return one.tenant
        names.append(one.crew_name)
    hint = did_you_mean(near_names(reference, names)) or (
        f"`coxswain agents` lists those that are, and `coxswain crews publish {reference}` publishes it"
    )
    raise typer.BadParameter(f"no crew {reference!r} is published; {hint}", param_hint="AGENT")


def _cancelling(call: Any) -> Generator[agent_pb2.StreamResponse]:
    """The messages of a stream that ends when nobody reads it any more."""
    try:
        yield from call
    finally:
        call.cancel()
