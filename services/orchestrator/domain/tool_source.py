"""Where the tools of a group come from: sources, the tools they list, and what a group lets them do."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from services.orchestrator.domain.crew import OnDeadline


class SourceKind(StrEnum):
    """What a source speaks; the names are those of the fields of `ToolSourceSpec.kind`."""

    MCP = "MCP"
    MCP_COMMAND = "MCP_COMMAND"
    """A local command that speaks MCP over its standard streams; only operators declare one."""
    GRPC = "GRPC"
    OPENAPI = "OPENAPI"
    HTTP = "HTTP"
    PYTHON = "PYTHON"
    """Tools that the operator has installed; only operators declare one."""
    A2A = "A2A"
    """An agent of another system."""


class McpEra(StrEnum):
    """Which edition of MCP a server speaks."""

    AUTO = "AUTO"
    LEGACY = "LEGACY"
    MODERN = "MODERN"


class McpTransport(StrEnum):
    """How a server is reached."""

    STREAMABLE_HTTP = "STREAMABLE_HTTP"
    SSE = "SSE"


@dataclass(frozen=True, slots=True)
class McpServer:
    """An MCP server over HTTP."""

    url: str
    transport: McpTransport = McpTransport.STREAMABLE_HTTP
    era: McpEra = McpEra.AUTO


@dataclass(frozen=True, slots=True)
class LocalCommand:
    """A program that speaks MCP; `environment` names variables of the gateway that it gets."""

    program: str
    arguments: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GrpcProvider:
    """A server of `coxswain.tools.v1.ToolProvider`."""

    address: str
    plaintext: bool = False
    """Without TLS, as only networks that the operator lists allow."""


@dataclass(frozen=True, slots=True)
class A2AAgent:
    """An agent that is called over A2A 1.0 or 0.3 by gRPC; one of `card_url` and `address` at least is not empty."""

    card_url: str = ""
    """Empty: the agent is asked for its card at `address`."""
    address: str = ""
    """HOST:PORT that calls go to; empty: what the card names."""
    tenant: str = ""
    """Empty: what the card names."""
    plaintext: bool = False
    """Without TLS, as only networks that the operator lists allow."""


@dataclass(frozen=True, slots=True)
class OpenApiDocument:
    """Operations of an OpenAPI document, given as text or read from its address."""

    base_url: str
    document: str = ""
    url: str = ""
    operations: tuple[str, ...] = ()
    """Ids of the operations that are tools; empty: all of them."""
    idempotency_header: str = ""
    """Header that carries the id of a call, which makes POST repeatable; empty: the API knows none."""


@dataclass(frozen=True, slots=True)
class HttpOperation:
    """One tool written by hand: what is sent and which part of the answer is the result.

    `path`, the values of `query` and `body` hold `{argument}` where an argument goes.
    """

    name: str
    description: str
    method: str
    path: str
    arguments_schema: dict[str, Any]
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    result_pointer: str = ""
    """JSON Pointer (RFC 6901) into the answer; empty: all of it."""
    idempotency_header: str = ""


@dataclass(frozen=True, slots=True)
class HttpApi:
    """Operations of one origin."""

    base_url: str
    operations: tuple[HttpOperation, ...]


@dataclass(frozen=True, slots=True)
class PythonTools:
    """An entry point of the group `coxswain.tools`."""

    entry_point: str


class AuthKind(StrEnum):
    """How calls to a source are authenticated; the names are those of the fields of `ToolSourceSpec.auth`."""

    NONE = "NONE"
    SECRET = "SECRET"
    OAUTH_CLIENT = "OAUTH_CLIENT"
    CALLER = "CALLER"
    """The user the execution acts for, with their own token, only to origins that the operator lists."""
    DATABRICKS = "DATABRICKS"


@dataclass(frozen=True, slots=True)
class SourceAuth:
    """What is sent as whom. `secret_name` is the name of a secret of the group."""

    kind: AuthKind = AuthKind.NONE
    secret_name: str = ""
    header: str = "authorization"
    prefix: str = "Bearer "
    token_url: str = ""
    client_id: str = ""
    scopes: tuple[str, ...] = ()
    resource: str = ""


class ApprovalRule(StrEnum):
    """Whether a person approves each call before it is made."""

    NEVER = "NEVER"
    ALWAYS = "ALWAYS"
    WHEN = "WHEN"
    """When an expression over the arguments holds."""


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """What a group allows the tools to do whose names match a glob. None leaves a value to the next policy."""

    tools: str = "*"
    idempotent: bool | None = None
    trust_hints: bool | None = None
    approval: ApprovalRule | None = None
    approval_condition: str = ""
    """CEL over `arguments`; for WHEN."""
    approval_deadline: float | None = None
    """Seconds that a question whether a call may be made is open; without it for ever."""
    approval_on_deadline: OnDeadline | None = None
    outcome_deadline: float | None = None
    """Seconds that a question what has become of a call is open; without it for ever."""
    polled: bool | None = None
    """Whether an agent may make the same call, and get the same result, as often as it likes."""
    timeout: float | None = None
    """Seconds without a sign of the tool."""
    max_timeout: float | None = None
    """Seconds of a call, however much progress it shows."""
    max_calls_per_execution: int | None = None
    calls_per_minute: int | None = None
    result_limit: int | None = None
    """Bytes of a result that the model gets at once."""
    cost: float | None = None
    """Of a call, in US dollars."""


class OnToolChange(StrEnum):
    """What happens when a tool is no longer what a crew was stored with."""

    BLOCK = "BLOCK"
    EVENT = "EVENT"
    ACCEPT = "ACCEPT"


class ShareField(StrEnum):
    """What a gRPC provider, or a Python tool, may be told of an execution."""

    GROUP = "GROUP"
    SUBJECT = "SUBJECT"
    EXECUTION = "EXECUTION"
    LABELS = "LABELS"


SourceEndpoint = McpServer | LocalCommand | GrpcProvider | OpenApiDocument | HttpApi | PythonTools | A2AAgent
ENDPOINT_TYPES: Mapping[SourceKind, type[SourceEndpoint]] = {
    SourceKind.MCP: McpServer,
    SourceKind.MCP_COMMAND: LocalCommand,
    SourceKind.GRPC: GrpcProvider,
    SourceKind.OPENAPI: OpenApiDocument,
    SourceKind.HTTP: HttpApi,
    SourceKind.PYTHON: PythonTools,
    SourceKind.A2A: A2AAgent,
}


@dataclass(frozen=True, slots=True)
class ToolSourceSpec:
    """A source as a group describes it. Of several policies that match a tool, each value is the first one given."""

    name: str
    kind: SourceKind
    endpoint: SourceEndpoint
    description: str = ""
    disabled: bool = False
    auth: SourceAuth = field(default_factory=SourceAuth)
    headers: dict[str, str] = field(default_factory=dict)
    allowed_tools: tuple[str, ...] = ()
    denied_tools: tuple[str, ...] = ()
    policies: tuple[ToolPolicy, ...] = ()
    share: tuple[ShareField, ...] = ()
    on_change: OnToolChange = OnToolChange.BLOCK

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that calls go to, each of one origin; none of what runs at the gateway."""
        match self.endpoint:
            case McpServer(url=url) | OpenApiDocument(base_url=url) | HttpApi(base_url=url):
                return (url,)
            case A2AAgent(address="", card_url=url):
                return (url,)
            case GrpcProvider(address=address, plaintext=plaintext) | A2AAgent(address=address, plaintext=plaintext):
                return (f"{'http' if plaintext else 'https'}://{address}",)
            case _:
                return ()

    def allows(self, tool: str) -> bool:
        """Return whether crews may use a tool, by its name at the source."""
        allowed = not self.allowed_tools or any(matches(pattern, tool) for pattern in self.allowed_tools)
        return allowed and not any(matches(pattern, tool) for pattern in self.denied_tools)

    def policy_for(self, tool: str) -> ToolPolicy:
        """Return what the policies say of a tool together; None where they leave the default."""
        matching = [policy for policy in self.policies if matches(policy.tools, tool)]
        merged: dict[str, Any] = {
            name: next((value for policy in matching if (value := getattr(policy, name)) is not None), None)
            for name in _POLICY_VALUES
        }
        condition = next((policy.approval_condition for policy in matching if policy.approval is not None), "")
        return ToolPolicy(tool, approval_condition=condition, **merged)


_POLICY_VALUES = tuple(
    policy_field.name for policy_field in fields(ToolPolicy) if policy_field.name not in {"tools", "approval_condition"}
)


def matches(pattern: str, name: str) -> bool:
    """Return whether a name is of a pattern, in which * stands for any characters and ? for one.

    It takes time proportional to the product of their lengths at most, whatever the pattern is.
    """
    at, star, resumed = 0, -1, 0
    place = 0
    while place < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, resumed = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[place]):
            at, place = at + 1, place + 1
        elif star >= 0:
            resumed += 1
            at, place = star + 1, resumed
        else:
            return False
    return all(character == "*" for character in pattern[at:])


@dataclass(frozen=True, slots=True)
class ListedTool:
    """A tool as its source lists it."""

    name: str
    description: str
    arguments_schema: dict[str, Any]
    title: str = ""
    output_schema: dict[str, Any] | None = None
    idempotent_hint: bool | None = None
    """What the source says; believed where a policy trusts it."""
    warnings: tuple[str, ...] = ()
    call_digest: str = ""
    """Of where and how its calls are sent: address, method, path, places of arguments; empty: its name says it all."""
    call: str = ""
    """Method and address of its calls for people, where a source has them: `POST https://api.example.com/orders/{id}`."""
    hash: str = ""
    """Over all that models are told of it, its hints, and how it is called; of a tool in a stored list never empty."""


class ToolChangeKind(StrEnum):
    """How a tool differs from the one that was accepted last."""

    ADDED = "ADDED"
    CHANGED = "CHANGED"
    REMOVED = "REMOVED"


@dataclass(frozen=True, slots=True)
class ToolChange:
    """A difference of one tool to what was accepted last."""

    tool: str
    kind: ToolChangeKind
    at: datetime
    """When it was first seen."""
    parts: tuple[str, ...] = ()
    """What of a changed tool differs: fields of `ListedTool`."""


@dataclass(frozen=True, slots=True)
class AcceptedTool:
    """A tool as it was accepted last, by its hashes."""

    hash: str
    parts: dict[str, str] = field(default_factory=dict)
    """Hash of each field of `ListedTool` that counts."""
    before: ListedTool | None = None
    """The tool itself, kept from when its source began to list another one of that name, or none; None before that."""


@dataclass(frozen=True, slots=True)
class ToolDifference:
    """A change of a tool with what it was and what it is."""

    change: ToolChange
    before: ListedTool | None
    """As it was accepted; None of a new tool, and where that was not kept."""
    after: ListedTool | None
    """As it is listed; None of one that is gone."""


@dataclass(frozen=True, slots=True)
class ToolSource:
    """A stored source."""

    id: str
    group_id: str
    revision: int
    spec: ToolSourceSpec
    tools: tuple[ListedTool, ...]
    """As last listed, by name; empty where a listing of sources leaves them out."""
    created_at: datetime
    updated_at: datetime
    listed_at: datetime | None = None
    """When it was last listed with success."""
    list_error: str = ""
    """Why the last listing failed."""
    from_operator: bool = False
    """Whether the operator declares it for the group, which cannot change it then."""
    checked_at: datetime | None = None
    """When it was last asked for its tools, with success or without."""
    list_revision: int = 0
    """Number of the newest list; 0: there is none."""
    tool_count: int = 0
    list_warnings: tuple[str, ...] = ()
    accepted: Mapping[str, AcceptedTool] = field(default_factory=dict)
    """By the tools' names at the source; empty where a listing of sources leaves them out."""
    changes: tuple[ToolChange, ...] = ()
    """Of the newest list to what is accepted, by tool."""
    problem: str = ""
    """Why none of its tools can be used now; found when it is shown, and not stored."""

    @property
    def version(self) -> str:
        """What changes whenever tools of the source may be others, or may be used otherwise."""
        return source_version(self.id, self.revision, self.list_revision, self.updated_at)


def source_version(source_id: str, revision: int, list_revision: int, updated_at: datetime) -> str:
    """Return the version of a source; see `ToolSource.version`."""
    return f"{source_id} {revision} {list_revision} {updated_at.timestamp()}"
