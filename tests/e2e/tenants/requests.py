"""A request of every public method as a group would send it, for attempts to be made of it."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.e2e.tenants.things import OFFLINE_EMBEDDINGS, Group

Fields = Mapping[str, Any]
_NAMESPACE = {"kind": "MEMORY_KIND_UNIFIED"}
_USER = "MESSAGE_ROLE_USER"


def base_request(name: str, own: Group) -> list[Fields]:
    """Return the fields of a request of a method, of which most can be sent as they are; several if it streams them."""
    made = REQUESTS[name](own)
    return [made] if isinstance(made, Mapping) else list(made)


def fresh() -> str:
    """Return a name that nothing has yet: what is made twice must not meet itself."""
    return f"fresh{secrets.token_hex(6)}"


def _none(_own: Group) -> Fields:
    return {}


def _of(field: str, kind: str, **more: Any) -> Callable[[Group], Fields]:
    return lambda own: {field: own.one(kind), **more}


def _namespace(**more: Any) -> Callable[[Group], Fields]:
    return lambda own: {"namespace": _own_namespace(own), **more}


def _own_namespace(own: Group) -> Fields:
    return {"memory_id": own.values["memory_id"][-1], **_NAMESPACE}


def _searched() -> Fields:
    # A text is embedded once: usage would show who has asked for it first. All are asked for, as the nearest ones are
    # others for each text.
    return {"text": f"a memory of kind {fresh()}", "limit": 1_000}


def _crew(own: Group) -> Fields:
    agent = {"name": "worker", "role": "Worker", "goal": "Work"}
    task = {"name": "one", "description": "Work", "expected_output": "A line", "agent": "worker"}
    return {"name": fresh(), "agents": [agent], "tasks": [task], "model": own.one("model_name")}


def _start(own: Group) -> Fields:
    return {"crew_id": own.one("crew_id")}


def _schedule(own: Group) -> Fields:
    return {"name": fresh(), "cron": "0 0 1 1 *", "start": _start(own)}


def _webhook(own: Group) -> Fields:
    # Nothing leaves: it is switched off.
    return {"url": "https://example.com/hook", "description": fresh(), "labels": {"a": "b"}, "paused": True}


def _model(own: Group) -> Fields:
    return {
        "name": f"new/{fresh()}",
        "provider": "PROVIDER_OPENAI",
        "base_url": "https://example.com/v1",
        "upstream_model": "own",
        "capabilities": {"chat": True},
    }


def _source(own: Group) -> Fields:
    operation = {"name": "look", "method": "GET", "path": "/", "description": "Looks"}
    secret = {"secret_name": own.one("secret_name")}
    return {
        "name": fresh(),
        "http": {"base_url": "https://example.com", "operations": [operation]},
        "secret": secret,
    }


def _backend(own: Group) -> Fields:
    config = {"workspace_url": "https://example.com", "endpoint": "vectors", "catalog": "main", "schema": fresh()}
    indexes = [{"kind": "MEMORY_KIND_UNIFIED", "index": "unified"}]
    return {"name": fresh(), "databricks": {**config, "indexes": indexes}}


def _completion(own: Group) -> Fields:
    message = {"role": _USER, "content": [{"text": "Hello"}]}
    return {"completion": {"model": own.one("model_name"), "messages": [message]}}


def _saved(own: Group) -> Fields:
    records = [{"unified": {"content": fresh()}}]
    return {"namespace": _own_namespace(own), "records": records, "embedding_model": OFFLINE_EMBEDDINGS}


def _imported(own: Group) -> Sequence[Fields]:
    return [
        {"target": {"namespace": _own_namespace(own)}, "records": [{"id": fresh(), "unified": {"content": fresh()}}]}
    ]


def _document(_own: Group) -> Sequence[Fields]:
    header = {"id": fresh(), "file_name": "new.md", "embedding_model": OFFLINE_EMBEDDINGS}
    return [{"header": header}, {"chunk": b"# Ours\n\nA text of ours."}]


def _index(**more: Any) -> Callable[[Group], Fields]:
    return lambda own: {"index": (own.values["index"] or ["main.none.unified"])[0], **more}


def _backend_of(**more: Any) -> Callable[[Group], Fields]:
    return lambda own: {"backend_id": (own.values["backend_id"] or ["none"])[0], **more}


def _file(own: Group) -> Fields:
    return {"execution_id": own.one("execution_id"), "name": own.one("artifact_name")}


EVERYTHING = {"paths": ["*"]}
_VECTOR = {"query_vector": [1.0] * 8}
REQUESTS: Mapping[str, Callable[[Group], Fields | Sequence[Fields]]] = {
    "AuthService.WhoAmI": _none,
    "AuthService.GetJwks": _none,
    "AuthService.ExchangeToken": lambda own: {"authorization": own.api.metadata[0][1]},
    "AuthService.ExplainCredential": lambda own: {
        "purpose": "CREDENTIAL_PURPOSE_TOOL",
        "secret_name": own.one("secret_name"),
    },
    "GroupService.CreateGroup": lambda own: {"display_name": "New", "admin_subject": own.subject},
    "GroupService.ListGroups": _none,
    "GroupService.DeleteGroup": _none,
    "GroupService.SetMember": lambda own: {"subject": f"dev|{fresh()}", "role": "ROLE_OPERATOR"},
    "GroupService.RemoveMember": _none,
    "GroupService.RevokeAccess": lambda _own: {"subject": f"dev|{fresh()}"},
    "GroupService.RevokeAccessEverywhere": lambda _own: {"subject": f"dev|{fresh()}"},
    "GroupService.ListMembers": _none,
    "GroupService.GetGroupLimits": _none,
    "GroupService.LowerGroupLimits": lambda own: {"limits": {}, "update_mask": EVERYTHING},
    "GroupService.SetGroupLimits": lambda own: {"limits": {}, "update_mask": EVERYTHING},
    "SecretService.PutSecret": lambda own: {"name": fresh(), "value": "v", "allowed_origins": ["https://example.com"]},
    "SecretService.ListSecrets": _none,
    "SecretService.DeleteSecret": _none,
    "SecretService.RotateKey": _none,
    "ServiceTokenService.CreateServiceToken": lambda _own: {
        "name": fresh(),
        "role": "ROLE_OPERATOR",
        "lifetime": {"seconds": 3600},
    },
    "ServiceTokenService.ListServiceTokens": _none,
    "ServiceTokenService.RevokeServiceToken": _none,
    "DocumentService.SaveDocument": _document,
    "DocumentService.GetDocument": _of("id", "document_id"),
    "DocumentService.ListDocuments": _none,
    "DocumentService.DeleteDocument": _none,
    "MemoryBackendService.CreateMemoryBackend": lambda own: {"backend": _backend(own)},
    "MemoryBackendService.GetMemoryBackend": _none,
    "MemoryBackendService.ListMemoryBackends": _none,
    "MemoryBackendService.UpdateMemoryBackend": lambda own: {"backend": _backend(own), "update_mask": EVERYTHING},
    "MemoryBackendService.DeleteMemoryBackend": _none,
    "MemoryBackendService.ActivateMemoryBackend": _none,
    "MemoryBackendService.VerifyMemoryBackend": _none,
    "MemoryBackendService.ProvisionMemoryBackend": _none,
    "MemoryService.SaveRecords": _saved,
    "MemoryService.SearchRecords": lambda own: {"namespace": _own_namespace(own), **_searched()},
    "MemoryService.BatchSearchRecords": lambda own: {"queries": [{"namespaces": [_own_namespace(own)], **_searched()}]},
    "MemoryService.GetRecord": lambda own: {"namespace": _own_namespace(own), "id": own.one("record_id")},
    "MemoryService.ListRecordVersions": lambda own: {"namespace": _own_namespace(own), "id": own.one("record_id")},
    "MemoryService.GetHistoryPolicy": _none,
    "MemoryService.SetHistoryPolicy": lambda own: {"days": 20},
    "MemoryService.ListRecords": _namespace(),
    "MemoryService.ExportRecords": _namespace(),
    "MemoryService.ImportRecords": _imported,
    "MemoryService.DeleteRecords": _namespace(),
    "MemoryService.CountRecords": _namespace(),
    "MemoryService.ClearNamespace": lambda own: {"namespace": _NAMESPACE},
    "MemoryService.TouchRecords": lambda own: {"namespace": _own_namespace(own), "ids": own.values["record_id"][:1]},
    "MemoryService.ForgetSubject": _none,
    "MemoryService.ListScopes": _namespace(),
    "MemoryService.GetScope": _namespace(),
    "MemoryService.ListCategories": _namespace(),
    "MemoryService.TraverseEntities": lambda own: {
        "namespace": {"memory_id": own.values["memory_id"][-1], "kind": "MEMORY_KIND_ENTITY"},
        "start": own.one("entity"),
    },
    "MemoryService.ListNamespaces": _none,
    "MemoryService.DeriveMemoryId": lambda own: {"agent_roles": ["a"], "task_names": ["b"], "crew_name": "c"},
    "VectorIndexService.UpsertIndexRecords": lambda own: {
        **_index(memory_id=own.values["memory_id"][-1])(own),
        "records": [{"id": fresh(), "unified": {"content": fresh()}, "embedding": [1.0] * 8}],
    },
    "VectorIndexService.SimilaritySearch": _index(**_VECTOR),
    "VectorIndexService.DeleteIndexRecords": _index(memory_id="none", ids=["none"]),
    "VectorIndexService.CountIndexRecords": _index(),
    "VectorIndexService.DescribeIndex": _index(),
    "VectorIndexService.EmptyIndex": _none,
    "VectorIndexService.CreateIndex": _backend_of(index="main.other.unified", kind="MEMORY_KIND_UNIFIED"),
    "VectorIndexService.AdoptIndex": _backend_of(kind="MEMORY_KIND_UNIFIED"),
    "VectorIndexService.DeleteIndex": _none,
    "VectorIndexService.ListIndexes": _none,
    "VectorIndexService.GetSchema": lambda own: {"kind": "MEMORY_KIND_UNIFIED"},
    "VectorIndexService.CreateEndpoint": _backend_of(),
    "VectorIndexService.GetEndpoint": _backend_of(),
    "VectorIndexService.ListEndpoints": _backend_of(),
    "VectorIndexService.DeleteEndpoint": _none,
    "InferenceService.Complete": _completion,
    "InferenceService.StreamComplete": _completion,
    "InferenceService.Embed": lambda own: {"model": OFFLINE_EMBEDDINGS, "texts": [fresh()]},
    "InferenceService.CountTokens": _of(
        "model", "model_name", messages=[{"role": _USER, "content": [{"text": "Hello"}]}]
    ),
    "ModelService.ListModels": _none,
    "ModelService.GetModel": _none,
    "ModelService.CreateModel": lambda own: {"model": _model(own)},
    "ModelService.UpdateModel": lambda own: {"model": _model(own), "update_mask": EVERYTHING},
    "ModelService.DeleteModel": _none,
    "ModelService.SetModelEnabled": lambda own: {"enabled": False},
    "UsageService.QueryUsage": lambda own: {"group_by": ["USAGE_GROUPING_MODEL", "USAGE_GROUPING_SUBJECT"]},
    "UsageService.SetBudget": lambda own: {"budget": {"calls_per_minute": 1_000_000}},
    "UsageService.GetBudget": _none,
    "UsageService.ListBudgets": _none,
    "UsageService.DeleteBudget": lambda own: {"scope": {}},
    "UsageService.SetBudgetCeiling": lambda own: {"ceiling": {"calls_per_minute": 1_000_000}},
    "UsageService.ListBudgetAlerts": _none,
    "UsageService.WatchBudgetAlerts": _none,
    "ArtifactService.ListArtifacts": _of("execution_id", "execution_id"),
    "ArtifactService.GetArtifact": _file,
    "ArtifactService.DownloadArtifact": _file,
    "BatchService.StartBatch": lambda own: {"start": _start(own), "inputs": [{}]},
    "BatchService.GetBatch": _of("id", "batch_id"),
    "BatchService.ListBatches": _none,
    "BatchService.CancelBatch": _none,
    "BatchService.DeleteBatch": _none,
    "CrewService.CreateCrew": lambda own: {"spec": _crew(own)},
    "CrewService.GetCrew": _none,
    "CrewService.ListCrews": _none,
    "CrewService.ListPublications": _none,
    "CrewService.UpdateCrew": lambda own: {"spec": _crew(own), "update_mask": EVERYTHING},
    "CrewService.DeleteCrew": _none,
    "CrewService.ValidateCrew": lambda own: {"spec": _crew(own)},
    "ExecutionService.StartExecution": _start,
    "ExecutionService.GetExecution": _of("id", "execution_id"),
    "ExecutionService.ListExecutions": _none,
    "ExecutionService.WatchExecution": _of("id", "execution_id"),
    "ExecutionService.WatchExecutions": _none,
    "ExecutionService.CancelExecution": _none,
    "ExecutionService.ResumeExecution": lambda own: {"id": own.values["execution_id"][1]},
    "ExecutionService.ForkExecution": _of("id", "execution_id"),
    "ExecutionService.RenewExecutionCredential": _none,
    "ExecutionService.DeleteExecution": _none,
    "ExecutionService.GetExecutionRetention": _none,
    "ExecutionService.SetExecutionRetention": lambda own: {"keep_forever": {}},
    "ExecutionService.GetTaskOutputs": _of("id", "execution_id"),
    "ExecutionService.CompareExecutions": lambda own: {"ids": own.values["execution_id"][:2]},
    "QuestionService.ListQuestions": _none,
    "QuestionService.GetQuestion": _of("id", "question_id"),
    "QuestionService.WatchQuestions": _none,
    "QuestionService.AnswerQuestion": lambda own: {"accept": {}},
    "ScheduleService.CreateSchedule": lambda own: {"schedule": _schedule(own)},
    "ScheduleService.GetSchedule": _none,
    "ScheduleService.FireSchedule": lambda own: {"id": own.one("schedule_id")},
    "ScheduleService.ListSchedules": _none,
    "ScheduleService.UpdateSchedule": lambda own: {"schedule": _schedule(own), "update_mask": EVERYTHING},
    "ScheduleService.DeleteSchedule": _none,
    "WebhookService.CreateWebhook": lambda own: {"webhook": _webhook(own)},
    "WebhookService.GetWebhook": _of("id", "webhook_id"),
    "WebhookService.ListWebhooks": _none,
    "WebhookService.UpdateWebhook": lambda own: {
        "id": own.one("webhook_id"),
        "webhook": _webhook(own),
        "update_mask": EVERYTHING,
    },
    "WebhookService.DeleteWebhook": _none,
    "WebhookService.RotateWebhookSigningKey": _of("id", "webhook_id"),
    "WebhookService.ListWebhookDeliveries": _of("webhook_id", "webhook_id"),
    "WebhookService.RetryWebhookDelivery": _none,
    "ToolService.ListTools": _none,
    "ToolService.TestTool": lambda own: {"name": own.one("tool_name"), "arguments": {"id": "m"}},
    "ToolService.QueryToolUsage": _none,
    "ToolSourceService.CreateToolSource": lambda own: {"spec": _source(own)},
    "ToolSourceService.GetToolSource": _none,
    "ToolSourceService.ListToolSources": _none,
    "ToolSourceService.UpdateToolSource": lambda own: {"spec": _source(own), "update_mask": EVERYTHING},
    "ToolSourceService.DeleteToolSource": _none,
    "ToolSourceService.RefreshToolSource": _none,
    "ToolSourceService.CheckToolSource": _none,
    "ToolSourceService.ListToolChanges": _none,
    "ToolSourceService.AcceptToolChanges": lambda own: {"list_revision": 1},
    "WorkerService.ListWorkers": _none,
}
UNENDING = frozenset(
    # Streams that go on for as long as there may be something to tell.
    {
        "ExecutionService.WatchExecution",
        "ExecutionService.WatchExecutions",
        "QuestionService.WatchQuestions",
        "UsageService.WatchBudgetAlerts",
    }
)
