"""What a group sees of itself, whatever store it lies in."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

from tests.e2e.tenants.api import message_of
from tests.e2e.tenants.things import KINDS, Group

_LISTINGS = (
    *("SecretService.ListSecrets", "GroupService.ListMembers", "DocumentService.ListDocuments"),
    "ServiceTokenService.ListServiceTokens",
    *("MemoryBackendService.ListMemoryBackends", "MemoryService.ListNamespaces", "MemoryService.GetHistoryPolicy"),
    *("ModelService.ListModels", "UsageService.ListBudgets", "UsageService.QueryUsage", "BatchService.ListBatches"),
    *("CrewService.ListCrews", "CrewService.ListPublications"),
    *("ExecutionService.ListExecutions", "ExecutionService.GetExecutionRetention"),
    *("QuestionService.ListQuestions", "ScheduleService.ListSchedules", "ToolService.ListTools"),
    *("ToolSourceService.ListToolSources", "ToolService.QueryToolUsage", "WebhookService.ListWebhooks"),
)


def views_of(group: Group) -> Mapping[str, Any]:
    """Return everything that a group lists, and every record of its memories."""
    views = {name: _seen(group, name) for name in _LISTINGS}
    for kind in KINDS:
        for memory_id in [""] if kind == "DOCUMENT" else group.values["memory_id"]:
            namespace = {"memory_id": memory_id, "kind": f"MEMORY_KIND_{kind}"}
            views[f"{kind} of {memory_id}"] = _seen(group, "MemoryService.ListRecords", namespace=namespace)
    return views


def _seen(group: Group, name: str, **fields: Any) -> Any:
    outcome = group.api.call(name, message_of(name, **fields))
    seen = [MessageToDict(answer) for answer in outcome.answers]
    # A new token for the next page is sealed anew.
    return outcome.code, [{key: value for key, value in answer.items() if key != "nextPageToken"} for answer in seen]
