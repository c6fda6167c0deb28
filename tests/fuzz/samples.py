"""Requests that do something, for methods that chance would seldom find one for; as JSON.

`KNOWN` stands for the id or name of something that exists.
"""

from typing import Any

Sample = dict[str, Any]

_NAMESPACE = {"memory_id": "fuzz", "kind": "MEMORY_KIND_UNIFIED"}
_ENTITIES = {"memory_id": "fuzz", "kind": "MEMORY_KIND_ENTITY"}
_RECORD = {"unified": {"content": "Cats sleep a lot.", "scope": "/a", "categories": ["cats"]}}
INDEX = "main.memories.unified"


def _messages(text: str) -> list[Sample]:
    return [{"role": "MESSAGE_ROLE_USER", "content": [{"text": text}]}]


def _completion(model: str = "offline/extract") -> Sample:
    return {
        "completion": {
            "model": model,
            "messages": _messages("Find 2 sentences.\n\nCats sleep. Dogs bark. Ships float."),
        }
    }


def _crew(name: str, **task: Any) -> Sample:
    return {
        "name": name,
        "model": "offline/extract",
        "agents": [{"name": "worker", "role": "Worker", "goal": "Do the task"}],
        "tasks": [
            {
                "name": "read",
                "description": "Read: {text}",
                "expected_output": "A sentence",
                "agent": "worker",
                **task,
            }
        ],
    }


_START = {"crew_name": "reading", "inputs": {"text": "Ships float. Anchors sink."}}
_SAID: Sample = {
    "tenant": "KNOWN",
    "message": {"messageId": "said", "role": "ROLE_USER", "parts": [{"text": "Ships float."}]},
    "configuration": {"returnImmediately": True},
}
_SAID_03: Sample = {"request": {"messageId": "said", "role": "ROLE_USER", "content": [{"text": "Ships float."}]}}
_SCHEDULE = {"name": "daily", "cron": "0 0 1 1 *", "start": _START}
_WEBHOOK = {"url": "http://127.0.0.1:9/hook", "kinds": ["EXECUTION_EVENT_KIND_EXECUTION_SUCCEEDED"]}
_OPERATION = {
    "name": "look",
    "description": "Looks.",
    "method": "GET",
    "path": "/v1/models/{id}",
    "arguments_schema": {"type": "object", "properties": {"id": {"type": "string"}}},
}
_SOURCE = {"name": "shop", "http": {"base_url": "http://127.0.0.1:9", "operations": [_OPERATION]}}
_OWN_MODEL = {
    "name": "team/own",
    "provider": "PROVIDER_OPENAI",
    "base_url": "http://127.0.0.1:9/v1",
    "upstream_model": "own",
    "capabilities": {"chat": True, "embeddings": True},
}
_BACKEND = {
    "name": "shared",
    "databricks": {
        "workspace_url": "KNOWN",
        "endpoint": "shared",
        "catalog": "main",
        "schema": "memories",
        "indexes": [{"kind": "MEMORY_KIND_UNIFIED", "index": "unified"}],
    },
}
_ALL = "*"

SAMPLES: dict[str, tuple[Sample, ...]] = {
    "GroupService.CreateGroup": ({"display_name": "Team", "admin_subject": "dev|alice"},),
    "GroupService.DeleteGroup": ({"id": "KNOWN", "confirm_id": "KNOWN"},),
    "GroupService.SetMember": ({"subject": "dev|bob", "role": "ROLE_OPERATOR"},),
    "GroupService.RemoveMember": ({"subject": "dev|bob"},),
    "GroupService.RevokeAccess": ({"subject": "dev|bob"},),
    "GroupService.RevokeAccessEverywhere": ({"subject": "dev|bob"},),
    "ServiceTokenService.CreateServiceToken": ({"name": "build", "role": "ROLE_OPERATOR", "lifetime": "3600s"},),
    "ServiceTokenService.RevokeServiceToken": ({"name": "build"},),
    "SecretService.PutSecret": (
        {"name": "llm/openai", "value": "a-value", "allowed_origins": ["https://example.com"]},
        {"name": "tools/shop", "value": "a-value", "allowed_origins": ["https://example.com"]},
    ),
    "AuthService.ExplainCredential": ({"purpose": "CREDENTIAL_PURPOSE_LLM_PROVIDER", "provider": "openai"},),
    "AuthService.ExplainCredentials": (
        {"credentials": [{"purpose": "CREDENTIAL_PURPOSE_LLM_PROVIDER", "provider": "openai"}]},
    ),
    "AuthService.ResolveCredential": (
        {
            "purpose": "CREDENTIAL_PURPOSE_LLM_PROVIDER",
            "provider": "openai",
            "destination_origin": "https://example.com",
        },
    ),
    "AuthService.CreateDelegation": ({"execution_id": "run-1"},),
    "AuthService.IssueExecutionPrincipal": ({"grant_id": "KNOWN", "execution_id": "run-1"},),
    "AuthService.RenewDelegation": ({"execution_id": "run-1"},),
    "InferenceService.Complete": (_completion(), _completion("openai/gpt-4.1-mini")),
    "InferenceService.StreamComplete": (_completion(), _completion("openai/gpt-4.1-mini")),
    "InferenceService.Embed": ({"model": "offline/embed", "texts": ["Cats sleep.", "Dogs bark."]},),
    "InferenceService.CountTokens": ({"model": "openai/gpt-4.1-mini", "messages": _messages("Count these words.")},),
    "ModelService.CreateModel": ({"model": _OWN_MODEL},),
    "ModelService.UpdateModel": ({"name": "team/own", "model": {"description": "Ours"}, "update_mask": "description"},),
    "ModelService.SetModelEnabled": ({"name": "team/own", "enabled": True},),
    "UsageService.SetBudget": ({"budget": {"calls_per_minute": 100_000}},),
    "UsageService.SetBudgetCeiling": ({"group_id": "another", "ceiling": {"calls_per_minute": 100_000}},),
    "MemoryService.SaveRecords": (
        {"namespace": _NAMESPACE, "records": [_RECORD, _RECORD]},
        {"namespace": _ENTITIES, "records": [{"entity": {"entity_name": "Ann"}}]},
    ),
    "MemoryService.SearchRecords": ({"namespace": _NAMESPACE, "text": "cats"},),
    "MemoryService.BatchSearchRecords": ({"queries": [{"namespaces": [_NAMESPACE], "text": "cats"}]},),
    "MemoryService.GetRecord": ({"namespace": _NAMESPACE, "id": "KNOWN"},),
    "MemoryService.ListRecordVersions": ({"namespace": _NAMESPACE, "id": "KNOWN"},),
    "MemoryService.SetHistoryPolicy": ({"days": 30},),
    "MemoryService.ListRecords": ({"namespace": _NAMESPACE},),
    "MemoryService.ExportRecords": ({"namespace": _NAMESPACE},),
    "MemoryService.ImportRecords": ({"target": {"namespace": _NAMESPACE}, "records": [{**_RECORD, "id": "r-1"}]},),
    "MemoryService.CountRecords": ({"namespace": _NAMESPACE},),
    "MemoryService.ClearNamespace": ({"namespace": _NAMESPACE},),
    "MemoryService.ListScopes": ({"namespace": _NAMESPACE},),
    "MemoryService.GetScope": ({"namespace": _NAMESPACE},),
    "MemoryService.ListCategories": ({"namespace": _NAMESPACE},),
    "MemoryService.TraverseEntities": ({"namespace": _ENTITIES, "start": "Ann"},),
    "MemoryService.ForgetSubject": ({"subject": "dev|nobody"},),
    "DocumentService.SaveDocument": (
        {"header": {"id": "note", "file_name": "note.md"}},
        {"chunk": "IyBDYXRzCgpUaGV5IHNsZWVwIGEgbG90Lg=="},
    ),
    "MemoryBackendService.CreateMemoryBackend": ({"backend": _BACKEND},),
    "MemoryBackendService.UpdateMemoryBackend": ({"id": "KNOWN", "backend": {"name": "other"}, "update_mask": "name"},),
    "VectorIndexService.UpsertIndexRecords": (
        {"index": INDEX, "memory_id": "fuzz", "records": [{**_RECORD, "id": "r", "embedding": [1.0] * 256}]},
    ),
    "VectorIndexService.SimilaritySearch": ({"index": INDEX, "query_vector": [1.0] * 256},),
    "VectorIndexService.GetSchema": ({"kind": "MEMORY_KIND_UNIFIED"},),
    "A2A.SendMessage": (_SAID, {**_SAID, "message": {**_SAID["message"], "taskId": "KNOWN"}}),
    "A2A.SendStreamingMessage": (_SAID,),
    "A2A03.SendMessage": (_SAID_03,),
    "A2A03.SendStreamingMessage": (_SAID_03,),
    "CrewService.CreateCrew": (
        {"spec": _crew("reading")},
        {"spec": _crew("filing", output_file="read.md")},
        {"spec": {**_crew("answering"), "a2a": {"published": True, "textInput": "text"}}},
    ),
    "CrewService.UpdateCrew": ({"id": "KNOWN", "spec": _crew("reading"), "update_mask": _ALL},),
    "CrewService.ValidateCrew": ({"spec": _crew("reading", human_approval=True)},),
    "ExecutionService.StartExecution": (
        _START,
        {"crew_id": "KNOWN", "inputs": {"text": "Ships float."}, "labels": {"kind": "fuzz"}},
    ),
    "ExecutionService.WatchExecution": ({"id": "KNOWN"},),
    "ExecutionService.ForkExecution": ({"id": "KNOWN", "from_task": "read"},),
    "ExecutionService.SetExecutionRetention": ({"keep_forever": {}},),
    "ArtifactService.GetArtifact": ({"execution_id": "KNOWN", "name": "read.md"},),
    "ArtifactService.DownloadArtifact": ({"execution_id": "KNOWN", "name": "read.md"},),
    "BatchService.StartBatch": ({"start": {"crew_name": "reading"}, "inputs": [{"text": "One."}, {"text": "Two."}]},),
    "QuestionService.AnswerQuestion": ({"id": "KNOWN", "accept": {}}, {"id": "KNOWN", "decline": {"reason": "No."}}),
    "ScheduleService.CreateSchedule": ({"schedule": _SCHEDULE},),
    "ScheduleService.UpdateSchedule": ({"id": "KNOWN", "schedule": _SCHEDULE, "update_mask": _ALL},),
    "WebhookService.CreateWebhook": ({"webhook": _WEBHOOK},),
    "WebhookService.UpdateWebhook": ({"id": "KNOWN", "webhook": _WEBHOOK, "update_mask": _ALL},),
    "WebhookService.ListWebhookDeliveries": ({"webhook_id": "KNOWN"},),
    "ToolSourceService.CreateToolSource": ({"spec": _SOURCE},),
    "ToolSourceService.UpdateToolSource": ({"id": "KNOWN", "spec": _SOURCE, "update_mask": "http"},),
    "ToolService.TestTool": (
        {"name": "shop/look", "arguments": {"id": "m"}},
        {"name": "text_statistics", "arguments": {"text": "Some words."}},
    ),
    "ToolGatewayService.ExecuteToolCall": (
        {"call_id": "call-1", "tool": "shop/look", "arguments_json": '{"id": "m"}', "idempotent": True},
    ),
    "ToolGatewayService.AnswerSourceQuestion": ({"call_id": "call-1", "number": 1, "action": "cancel"},),
    "WorkerService.PublishHint": (
        {"hint": {"kind": "HINT_KIND_EVENTS_STORED", "execution_id": "KNOWN", "last_sequence": 1}},
    ),
    "WorkerService.SubscribeHints": ({"executor_id": "listener"},),
}
"""By `Service.Method`."""
