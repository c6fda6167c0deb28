"""Sources of tools: messages to domain and back."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.orchestrator.v1 import question_state_pb2, tool_pb2, tool_source_pb2
from services.common.errors import FieldViolation, InvalidArgument
from services.common.grpc.enums import enum_to_proto
from services.common.grpc.field_masks import mask_paths, replace_fields
from services.common.grpc.json_values import from_struct, from_value, to_struct, to_value
from services.common.grpc.times import duration_to_proto, timestamp_to_proto
from services.common.grpc.validation import rule_violations_cutting
from services.orchestrator.domain.crew import OnDeadline
from services.orchestrator.domain.tool_source import (
    A2AAgent,
    ApprovalRule,
    AuthKind,
    GrpcProvider,
    HttpApi,
    HttpOperation,
    ListedTool,
    LocalCommand,
    McpEra,
    McpServer,
    McpTransport,
    OnToolChange,
    OpenApiDocument,
    PythonTools,
    ShareField,
    SourceAuth,
    SourceEndpoint,
    SourceKind,
    ToolChange,
    ToolDifference,
    ToolPolicy,
    ToolSource,
    ToolSourceSpec,
)

_CHANGEABLE = frozenset(tool_source_pb2.ToolSourceSpec.DESCRIPTOR.fields_by_name) - {"name"}
# What rules of the protos refuse is read as the default: specs with faults are read too.
_ERAS = {int(enum_to_proto(tool_source_pb2.McpEra, era)): era for era in McpEra}
_TRANSPORTS = {int(enum_to_proto(tool_source_pb2.McpTransport, transport)): transport for transport in McpTransport}
_ON_CHANGE = {int(enum_to_proto(tool_source_pb2.OnToolChange, action)): action for action in OnToolChange}
_SHARES = {int(enum_to_proto(tool_source_pb2.ShareField, share)): share for share in ShareField}
_APPROVALS = {int(enum_to_proto(tool_pb2.ToolApproval, rule)): rule for rule in ApprovalRule}
_ON_DEADLINE = {int(enum_to_proto(question_state_pb2.OnDeadline, action)): action for action in OnDeadline}
_AUTHORIZATION = "authorization"


def checked_spec(message: tool_source_pb2.ToolSourceSpec) -> tuple[ToolSourceSpec, list[FieldViolation]]:
    """Return the spec of a message, and the rules of the message that it breaks."""
    broken = rule_violations_cutting(message, "spec")
    for index, operation in enumerate(message.http.operations):
        path = f"spec.http.operations[{index}]"
        try:
            from_struct(f"{path}.arguments_schema", operation.arguments_schema)
        except InvalidArgument as error:
            broken += error.violations
            operation.ClearField("arguments_schema")
        try:
            from_value(f"{path}.body", operation.body)
        except InvalidArgument as error:
            broken += error.violations
            operation.ClearField("body")
    return spec_from_proto(message), broken


def changed_spec(
    present: ToolSourceSpec, given: tool_source_pb2.ToolSourceSpec, mask: FieldMask
) -> tuple[ToolSourceSpec, list[FieldViolation]]:
    """Return a spec with the fields that a mask names replaced by the given ones, and the rules that it then breaks.

    Raises:
        InvalidArgument: the mask names a field that cannot be changed.
    """
    message = spec_to_proto(present)
    replace_fields(message, given, mask_paths(mask, _CHANGEABLE))
    return checked_spec(message)


def spec_from_proto(message: tool_source_pb2.ToolSourceSpec) -> ToolSourceSpec:
    """Return the spec of a message, with the defaults that the proto promises filled in.

    Raises:
        InvalidArgument: a number in a schema or a body is not finite.
    """
    kind, endpoint = _endpoint_from_proto(message)
    return ToolSourceSpec(
        name=message.name,
        kind=kind,
        endpoint=endpoint,
        description=message.description,
        disabled=message.disabled,
        auth=_auth_from_proto(message),
        headers=dict(message.headers),
        allowed_tools=tuple(message.allowed_tools),
        denied_tools=tuple(message.denied_tools),
        policies=tuple(map(_policy_from_proto, message.policies)),
        share=tuple(_SHARES[share] for share in message.share if share in _SHARES),
        on_change=_ON_CHANGE.get(message.on_change, OnToolChange.BLOCK),
    )


def _endpoint_from_proto(message: tool_source_pb2.ToolSourceSpec) -> tuple[SourceKind, SourceEndpoint]:
    match message.WhichOneof("kind"):
        case "grpc":
            return SourceKind.GRPC, GrpcProvider(message.grpc.address, plaintext=message.grpc.plaintext)
        case "a2a":
            agent = message.a2a
            return SourceKind.A2A, A2AAgent(agent.card_url, agent.address, agent.tenant, plaintext=agent.plaintext)
        case "openapi":
            return SourceKind.OPENAPI, OpenApiDocument(
                base_url=message.openapi.base_url,
                document=message.openapi.document,
                url=message.openapi.url,
                operations=tuple(message.openapi.operations),
                idempotency_header=message.openapi.idempotency_header,
            )
        case "http":
            operations = tuple(
                _operation_from_proto(f"spec.http.operations[{index}]", operation)
                for index, operation in enumerate(message.http.operations)
            )
            return SourceKind.HTTP, HttpApi(message.http.base_url, operations)
        case "mcp_command":
            command = message.mcp_command
            return SourceKind.MCP_COMMAND, LocalCommand(
                command.program, tuple(command.arguments), tuple(command.environment)
            )
        case "python":
            return SourceKind.PYTHON, PythonTools(message.python.entry_point)
        case _:
            # Without a kind the message breaks a rule and is refused.
            return SourceKind.MCP, McpServer(
                url=message.mcp.url,
                transport=_TRANSPORTS.get(message.mcp.transport, McpTransport.STREAMABLE_HTTP),
                era=_ERAS.get(message.mcp.era, McpEra.AUTO),
            )


def _operation_from_proto(path: str, message: tool_source_pb2.HttpOperation) -> HttpOperation:
    return HttpOperation(
        name=message.name,
        description=message.description,
        method=message.method,
        path=message.path,
        arguments_schema=from_struct(f"{path}.arguments_schema", message.arguments_schema),
        query=dict(message.query),
        body=from_value(f"{path}.body", message.body) if message.HasField("body") else None,
        result_pointer=message.result_pointer,
        idempotency_header=message.idempotency_header,
    )


def _auth_from_proto(message: tool_source_pb2.ToolSourceSpec) -> SourceAuth:
    match message.WhichOneof("auth"):
        case "secret":
            header = message.secret.header or _AUTHORIZATION
            prefix = "Bearer " if header.lower() == _AUTHORIZATION else ""
            return SourceAuth(
                AuthKind.SECRET,
                secret_name=message.secret.secret_name,
                header=header,
                prefix=message.secret.prefix if message.secret.HasField("prefix") else prefix,
            )
        case "oauth_client":
            return SourceAuth(
                AuthKind.OAUTH_CLIENT,
                secret_name=message.oauth_client.secret_name,
                token_url=message.oauth_client.token_url,
                client_id=message.oauth_client.client_id,
                scopes=tuple(message.oauth_client.scopes),
                resource=message.oauth_client.resource,
            )
        case "caller":
            return SourceAuth(AuthKind.CALLER)
        case "databricks":
            return SourceAuth(AuthKind.DATABRICKS)
        case _:
            return SourceAuth()


def _policy_from_proto(message: tool_source_pb2.ToolPolicy) -> ToolPolicy:
    def given(field: str) -> Any:
        return getattr(message, field) if message.HasField(field) else None  # type: ignore[arg-type]

    def seconds(field: str) -> float | None:
        duration = given(field)
        return None if duration is None else duration.ToNanoseconds() / 1e9

    return ToolPolicy(
        tools=message.tools or "*",
        idempotent=given("idempotent"),
        trust_hints=given("trust_hints"),
        approval=_APPROVALS.get(message.approval),
        approval_condition=message.approval_condition,
        timeout=seconds("timeout"),
        max_timeout=seconds("max_timeout"),
        max_calls_per_execution=given("max_calls_per_execution"),
        calls_per_minute=given("calls_per_minute"),
        result_limit=given("result_limit"),
        cost=given("cost"),
        approval_deadline=seconds("approval_deadline"),
        approval_on_deadline=_ON_DEADLINE.get(message.approval_on_deadline),
        outcome_deadline=seconds("outcome_deadline"),
        polled=given("polled"),
    )


def spec_to_proto(spec: ToolSourceSpec) -> tool_source_pb2.ToolSourceSpec:
    """Return a spec as callers see it."""
    message = tool_source_pb2.ToolSourceSpec(
        name=spec.name,
        description=spec.description,
        disabled=spec.disabled,
        headers=spec.headers,
        allowed_tools=spec.allowed_tools,
        denied_tools=spec.denied_tools,
        policies=map(_policy_to_proto, spec.policies),
        share=[enum_to_proto(tool_source_pb2.ShareField, share) for share in spec.share],
        on_change=enum_to_proto(tool_source_pb2.OnToolChange, spec.on_change),
    )
    _set_endpoint(message, spec.endpoint)
    _set_auth(message, spec.auth)
    return message


def _set_endpoint(message: tool_source_pb2.ToolSourceSpec, endpoint: SourceEndpoint) -> None:
    match endpoint:
        case McpServer():
            message.mcp.url = endpoint.url
            message.mcp.transport = enum_to_proto(tool_source_pb2.McpTransport, endpoint.transport)
            message.mcp.era = enum_to_proto(tool_source_pb2.McpEra, endpoint.era)
        case LocalCommand():
            message.mcp_command.program = endpoint.program
            message.mcp_command.arguments.extend(endpoint.arguments)
            message.mcp_command.environment.extend(endpoint.environment)
        case GrpcProvider():
            message.grpc.address, message.grpc.plaintext = endpoint.address, endpoint.plaintext
        case A2AAgent():
            message.a2a.card_url, message.a2a.address = endpoint.card_url, endpoint.address
            message.a2a.tenant, message.a2a.plaintext = endpoint.tenant, endpoint.plaintext
        case OpenApiDocument():
            message.openapi.base_url = endpoint.base_url
            if endpoint.url:
                message.openapi.url = endpoint.url
            else:
                message.openapi.document = endpoint.document
            message.openapi.operations.extend(endpoint.operations)
            message.openapi.idempotency_header = endpoint.idempotency_header
        case HttpApi():
            message.http.base_url = endpoint.base_url
            message.http.operations.extend(map(_operation_to_proto, endpoint.operations))
        case PythonTools():
            message.python.entry_point = endpoint.entry_point


def _operation_to_proto(operation: HttpOperation) -> tool_source_pb2.HttpOperation:
    return tool_source_pb2.HttpOperation(
        name=operation.name,
        description=operation.description,
        method=operation.method,
        path=operation.path,
        query=operation.query,
        body=None if operation.body is None else to_value(operation.body),
        arguments_schema=to_struct(operation.arguments_schema),
        result_pointer=operation.result_pointer,
        idempotency_header=operation.idempotency_header,
    )


def _set_auth(message: tool_source_pb2.ToolSourceSpec, auth: SourceAuth) -> None:
    match auth.kind:
        case AuthKind.SECRET:
            message.secret.secret_name, message.secret.header = auth.secret_name, auth.header
            message.secret.prefix = auth.prefix
        case AuthKind.OAUTH_CLIENT:
            client = message.oauth_client
            client.secret_name, client.client_id, client.token_url = auth.secret_name, auth.client_id, auth.token_url
            client.scopes.extend(auth.scopes)
            client.resource = auth.resource
        case AuthKind.CALLER:
            message.caller.SetInParent()
        case AuthKind.DATABRICKS:
            message.databricks.SetInParent()
        case AuthKind.NONE:
            pass


def _policy_to_proto(policy: ToolPolicy) -> tool_source_pb2.ToolPolicy:
    return tool_source_pb2.ToolPolicy(
        tools=policy.tools,
        idempotent=policy.idempotent,
        trust_hints=policy.trust_hints,
        approval=(
            tool_pb2.TOOL_APPROVAL_UNSPECIFIED
            if policy.approval is None
            else enum_to_proto(tool_pb2.ToolApproval, policy.approval)
        ),
        approval_condition=policy.approval_condition,
        timeout=duration_to_proto(policy.timeout),
        max_timeout=duration_to_proto(policy.max_timeout),
        max_calls_per_execution=policy.max_calls_per_execution,
        calls_per_minute=policy.calls_per_minute,
        result_limit=policy.result_limit,
        cost=policy.cost,
        approval_deadline=duration_to_proto(policy.approval_deadline),
        approval_on_deadline=(
            question_state_pb2.ON_DEADLINE_UNSPECIFIED
            if policy.approval_on_deadline is None
            else enum_to_proto(question_state_pb2.OnDeadline, policy.approval_on_deadline)
        ),
        outcome_deadline=duration_to_proto(policy.outcome_deadline),
        polled=policy.polled,
    )


def change_to_proto(change: ToolChange) -> tool_source_pb2.ToolChange:
    """Return a change of a tool as callers see it."""
    return tool_source_pb2.ToolChange(
        tool=change.tool,
        kind=enum_to_proto(tool_source_pb2.ToolChange.Kind, change.kind),
        parts=change.parts,
        time=timestamp_to_proto(change.at),
    )


def difference_to_proto(difference: ToolDifference) -> tool_source_pb2.ToolDifference:
    """Return a change of a tool with both its texts as callers see it."""
    return tool_source_pb2.ToolDifference(
        change=change_to_proto(difference.change),
        before=None if difference.before is None else _version_to_proto(difference.before),
        after=None if difference.after is None else _version_to_proto(difference.after),
    )


def _version_to_proto(tool: ListedTool) -> tool_source_pb2.ToolVersion:
    return tool_source_pb2.ToolVersion(
        description=tool.description,
        arguments_schema=to_struct(tool.arguments_schema),
        output_schema=None if tool.output_schema is None else to_struct(tool.output_schema),
        idempotent_hint=tool.idempotent_hint,
        call=tool.call,
    )


def source_to_proto(source: ToolSource) -> tool_source_pb2.ToolSource:
    """Return a source as callers see it."""
    return tool_source_pb2.ToolSource(
        id=source.id,
        spec=spec_to_proto(source.spec),
        revision=source.revision,
        managed_by_operator=source.from_operator,
        list_revision=source.list_revision,
        tool_count=source.tool_count,
        list_time=timestamp_to_proto(source.listed_at),
        check_time=timestamp_to_proto(source.checked_at),
        list_error=source.list_error,
        warnings=source.list_warnings,
        changes=map(change_to_proto, source.changes),
        create_time=timestamp_to_proto(source.created_at),
        update_time=timestamp_to_proto(source.updated_at),
        problem=source.problem,
    )
