"""The names of what a group has, for completion and for the names near one that is not found.

What this module needs for that it imports when it is asked: the command line starts without.
"""

import importlib
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from coxswain.client.connection import Connection

_MOST = 200


class _Listed(NamedTuple):
    """How the names of a resource are listed."""

    method: str
    """Service and method. Example: ``CrewService.ListCrews``."""
    module: str
    """Where its request is, below the package. Example: ``orchestrator.v1.crew_pb2``."""
    items: str
    """Field of the response."""
    name: str
    """Path of the name in an item."""
    most: int = _MOST


_LISTS = {
    "agent": _Listed("CrewService.ListPublications", "orchestrator.v1.a2a_pb2", "publications", "crew_name"),
    "batch": _Listed("BatchService.ListBatches", "orchestrator.v1.batch_pb2", "batches", "id", 20),
    "crew": _Listed("CrewService.ListCrews", "orchestrator.v1.crew_pb2", "crews", "spec.name"),
    "document": _Listed("DocumentService.ListDocuments", "memory.v1.document_pb2", "documents", "id"),
    "execution": _Listed("ExecutionService.ListExecutions", "orchestrator.v1.execution_pb2", "executions", "id", 20),
    "group": _Listed("AuthService.WhoAmI", "auth.v1.principal_pb2", "groups", "group_id"),
    "member": _Listed("GroupService.ListMembers", "auth.v1.group_pb2", "members", "subject"),
    "memory backend": _Listed(
        "MemoryBackendService.ListMemoryBackends", "memory.v1.memory_backend_pb2", "backends", "name"
    ),
    "memory index": _Listed("VectorIndexService.ListIndexes", "memory.v1.vector_index_pb2", "indexes", "index"),
    "model": _Listed("ModelService.ListModels", "models.v1.model_pb2", "models", "name"),
    "question": _Listed("QuestionService.ListQuestions", "orchestrator.v1.question_pb2", "questions", "id", 20),
    "schedule": _Listed("ScheduleService.ListSchedules", "orchestrator.v1.schedule_pb2", "schedules", "name"),
    "secret": _Listed("SecretService.ListSecrets", "auth.v1.secret_pb2", "secrets", "name"),
    "service token": _Listed(
        "ServiceTokenService.ListServiceTokens", "auth.v1.service_token_pb2", "service_tokens", "name"
    ),
    "stored group": _Listed("GroupService.ListGroups", "auth.v1.group_pb2", "groups", "id"),
    "tool": _Listed("ToolService.ListTools", "orchestrator.v1.tool_pb2", "tools", "name"),
    "tool source": _Listed(
        "ToolSourceService.ListToolSources", "orchestrator.v1.tool_source_pb2", "sources", "spec.name"
    ),
    "webhook": _Listed("WebhookService.ListWebhooks", "orchestrator.v1.webhook_pb2", "webhooks", "id"),
}


def names_of(connection: "Connection", resource: str) -> list[str]:
    """The names, or the ids where there are no names, of the newest of a resource; none of one that is not known.

    A resource is called as the errors about it call it; "group" means those of the caller, "stored group" all of the
    installation. Raises grpc.RpcError, and ValueError for addresses that are none.
    """
    from coxswain.client.blocking_channel import call_once

    if resource not in _LISTS:
        return []
    listed = _LISTS[resource]
    package = listed.module.rpartition(".")[0]
    service, _, method = listed.method.partition(".")
    messages = importlib.import_module(f"coxswain.{listed.module}")
    request = getattr(messages, f"{method}Request")()
    if "page_size" in request.DESCRIPTOR.fields_by_name:
        request.page_size = listed.most
    path = f"/coxswain.{package}.{service}/{method}"
    response = call_once(connection, path, request, getattr(messages, f"{method}Response"))
    return list(map(attrgetter(listed.name), getattr(response, listed.items)))
