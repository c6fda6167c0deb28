"""Which fields of requests name something, and what: every text that a caller can send is one or the other."""

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from tests.support.every_rpc import every_rpc, is_internal

_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_THING_OF_SERVICE = {
    "AuthService": "group",
    "GroupService": "group",
    "SecretService": "secret",
    "ServiceTokenService": "service_token",
    "DocumentService": "document",
    "MemoryBackendService": "backend",
    "MemoryService": "record",
    "ModelService": "model",
    "ArtifactService": "artifact",
    "BatchService": "batch",
    "CrewService": "crew",
    "ExecutionService": "execution",
    "QuestionService": "question",
    "ScheduleService": "schedule",
    "ToolService": "tool",
    "ToolSourceService": "source",
    "WebhookService": "webhook",
}
_BY_FIELD: dict[str, str] = {
    # Fields that name the same kind of thing wherever they stand, and which kind.
    **dict.fromkeys(("page_token",), "page_token"),
    **dict.fromkeys(("crew_id",), "crew_id"),
    **dict.fromkeys(("crew_name", "crew"), "crew_name"),
    **dict.fromkeys(("execution_id", "resumed_from", "last_execution_id"), "execution_id"),
    **dict.fromkeys(("group_id", "from_group", "confirm_id"), "group"),
    **dict.fromkeys(("subject", "admin_subject", "owner"), "subject"),
    **dict.fromkeys(("secret_name", "password_secret"), "secret_name"),
    **dict.fromkeys(
        ("model", "embedding_model", "manager_model", "planning_model", "function_calling_model", "llm_model"),
        "model_name",
    ),
    **dict.fromkeys(("on_outage", "on_context_window", "on_content_filter"), "model_name"),
    **dict.fromkeys(("backend_id", "successor_id"), "backend_id"),
    **dict.fromkeys(("backend_name", "successor_name"), "backend_name"),
    **dict.fromkeys(("index", "confirm_name"), "index"),
    **dict.fromkeys(("endpoint",), "endpoint"),
    **dict.fromkeys(("document_ids", "parent_document_id"), "document_id"),
    **dict.fromkeys(("scope", "scope_prefix", "parent", "path"), "scope"),
    **dict.fromkeys(("categories", "all_categories"), "category"),
    **dict.fromkeys(("agent_id", "agent_ids", "agent_roles"), "agent"),
    **dict.fromkeys(("entity_name", "start", "target"), "entity"),
    **dict.fromkeys(("relation", "relations"), "relation"),
    **dict.fromkeys(("memory_id", "memory_name", "run_name"), "memory_id"),
    **dict.fromkeys(("task_name", "task_names", "from_task"), "task"),
    **dict.fromkeys(("tools", "tool", "allowed_tools", "denied_tools", "tools_used"), "tool_name"),
    **dict.fromkeys(("ids",), "record_id"),
    "after_position": "position",
    "batch_id": "batch_id",
    "concurrency_key": "concurrency_key",
    "label_key": "label_key",
    "name_prefix": "artifact_name",
    "request_id": "request_id",
    "schedule_id": "schedule_id",
    "webhook_id": "webhook_id",
    "task_id": "execution_id",
    "session_id": "session",
    "source": "source_name",
    "file_name": "file_name",
    "destination_origin": "origin",
    "task_hash": "task_hash",
    "tenant": "published_agent_id",
}
_BY_MESSAGE: dict[str, str] = {
    # Fields that name something else there than their name alone says.
    "CompareExecutionsRequest.ids": "execution_id",
    "ConditionValue.text": "column_value",
    "DocumentHeader.id": "document_id",
    "DocumentHeader.source": "document_source",
    "DocumentRecord.source": "document_source",
    "GetRecordRequest.source": "memory_source",
    "LabelsEntry.key": "label_key",
    "LabelsEntry.value": "label_value",
    "ListRecordVersionsRequest.source": "memory_source",
    "MemoryBackend.id": "backend_id",
    "MemoryBackend.name": "backend_name",
    "MemoryIdsEntry.key": "memory_id",
    "MemoryIdsEntry.value": "memory_id",
    "MetadataEntry.key": "metadata_key",
    "Model.id": "model_id",
    "Model.name": "model_name",
    "Record.id": "record_id",
    "RecordFilter.source": "memory_source",
    "Schedule.id": "schedule_id",
    "Schedule.name": "schedule_name",
    "RetryWebhookDeliveryRequest.id": "webhook_delivery_id",
    "Webhook.id": "webhook_id",
    "TaskSpec.output_file": "artifact_name",
    "MemorySpec.name": "memory_id",
    "ToolSourceSpec.name": "source_name",
    "ToolSpec.name": "tool_name",
    "CrewSpec.name": "crew_name",
    "TouchRecordsRequest.source": "memory_source",
    "UnifiedRecord.source": "memory_source",
    "AcceptToolChangesRequest.tools": "tool_name",
    "DeleteGroupRequest.id": "group",
    "McpCommand.program": "program",
    "PythonTools.entry_point": "program",
}
_PLAIN_MESSAGES = frozenset(
    # What only says what something is to be; nothing that is stored is found by it.
    {
        *("Audio", "Document", "Image", "Thinking", "ToolCall", "ToolDefinition", "ResponseFormat", "Sampling"),
        *("HttpOperation", "HeadersEntry", "QueryEntry", "OAuthClientAuth", "OpenApiDocument", "OutputCheck"),
        *("WordList", "ProviderOptionsEntry", "ApprovalSpec", "ExecutionError", "DeclineQuestion", "Deployment"),
        *("A2ASkill", "A2ASpec"),
    }
)
_PLAIN = frozenset(
    {
        *("address", "agent", "allowed_origins", "approval_condition", "arguments", "arguments_json", "authorization"),
        *("backstory", "base_url", "ca_certificates", "catalog", "chunk", "column", "columns", "condition", "content"),
        *("cron", "data", "database", "date_format", "date_time_zone", "description", "detail", "display_name"),
        *("document_summary", "document_type", "entity_type", "environment", "error_reason", "expected_output"),
        *("forwarded_access_token", "goal", "guardrails", "header", "host", "instance", "key", "listed_fields"),
        *(
            "manager_agent",
            "material",
            "media_type",
            "prefix",
            "provider",
            "query_text",
            "question",
            "reasoning_effort",
        ),
        *("role", "schema", "section", "stop", "summary", "task_description", "tasks", "text", "texts", "time_zone"),
        *("title", "tool_call_id", "tool_choice", "unsupported_parameters", "upstream_model", "url", "user", "value"),
        *("card_url", "workspace_url"),
    }
)
_PLAIN_NAMES = frozenset({"AgentSpec.name", "KnowledgeSpec.name", "TaskSpec.name"})
_WELL_KNOWN = "google.protobuf."


@dataclass(frozen=True)
class Reference:
    """A field of a request that names something."""

    path: tuple[str, ...]
    """The names of the fields on the way to it; of lists the first element is meant, of maps the only entry."""
    kind: str


def public_rpcs() -> dict[str, MethodDescriptor]:
    """Return the methods that callers can reach, by `Service.Method`."""
    return {name: method for name, method in every_rpc().items() if not is_internal(method)}


def kind_of(service: str, message: str, field: str) -> str | None:
    """Return what a text of a request names, "" where it names nothing; None where nobody has said it."""
    own = f"{message}.{field}"
    if own in _BY_MESSAGE:
        return _BY_MESSAGE[own]
    if own in _PLAIN_NAMES or (message in _PLAIN_MESSAGES and field != "secret_name"):
        return ""
    if field in {"id", "name"} and message.endswith("Request"):
        return f"{_THING_OF_SERVICE[service]}_{field}"
    if field in _BY_FIELD:
        return _BY_FIELD[field]
    return "" if field in _PLAIN else None


def texts_of(method: MethodDescriptor) -> Iterator[tuple[tuple[str, ...], Descriptor, FieldDescriptor]]:
    """Yield the texts of a method's request: path, message and field; of what contains itself the outermost ones."""
    pending: list[tuple[Descriptor, tuple[str, ...], frozenset[str]]] = [(method.input_type, (), frozenset())]
    while pending:
        message, path, above = pending.pop()
        for field in message.fields:
            here = (*path, field.name)
            if field.type in _TEXTS:
                yield here, message, field
                continue
            inner = field.message_type
            if inner is not None and not inner.full_name.startswith(_WELL_KNOWN) and inner.full_name not in above:
                pending.append((inner, here, above | {message.full_name}))


def references_of(method: MethodDescriptor) -> list[Reference]:
    """Return the fields of a method's request that name something, in a fixed order."""
    service = method.containing_service.name
    found = [
        Reference(path, kind)
        for path, message, field in texts_of(method)
        if (kind := kind_of(service, message.name, field.name))
    ]
    return sorted(found, key=lambda reference: reference.path)


def unclassified() -> list[str]:
    """Return the texts of public requests of which nobody has said whether they name something."""
    return sorted(
        {
            f"{message.name}.{field.name}"
            for method in public_rpcs().values()
            for _, message, field in texts_of(method)
            if kind_of(method.containing_service.name, message.name, field.name) is None
        }
    )
