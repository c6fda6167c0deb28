"""Push notification configs of 0.3, and the tasks that are posted to them, in the JSON form of that version."""

from dataclasses import replace
from typing import Any

from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format
from pydantic_core import to_json

from services.common.errors import InvalidArgument
from services.orchestrator.domain.webhook import PayloadForm, Webhook
from services.orchestrator.servicers.a2a.outgoing import task_to_proto
from services.orchestrator.usecases.a2a.push_configs import PushPlan
from services.orchestrator.usecases.a2a.views import TaskView

MAX_TASK_BYTES = 1024 * 1024
"""Of what is posted of a task, which is stored until it has been."""
_CONFIGS = "/pushNotificationConfigs/"
_LEFT_OUT = "coxswain/left_out"
_CONTENTS = "contents"


def config_name_parts(name: str) -> tuple[str, str]:
    """Return the ids of task and config in the name of a config. Raises InvalidArgument: it is no such name."""
    task_id, found, config_id = name.removeprefix("tasks/").partition(_CONFIGS)
    if not (name.startswith("tasks/") and found and task_id and config_id) or "/" in task_id + config_id:
        raise InvalidArgument.field("name", f"must be tasks/, the id of a task, {_CONFIGS} and the id of a config")
    return task_id, config_id


def push_plan_from_03(config: old.PushNotificationConfig, config_id: str, path: str) -> PushPlan:
    """Return what somebody asks for; `path` is where the config lies in the request."""
    schemes = config.authentication.schemes
    return PushPlan(
        path=path,
        config_id=config_id or config.id,
        url=config.url,
        form=PayloadForm.A2A_03,
        token=config.token,
        scheme=schemes[0] if schemes else "",
        credentials=config.authentication.credentials,
    )


def push_config_to_03(webhook: Webhook) -> old.TaskPushNotificationConfig:
    """Return a config without what its receiver knows notifications by."""
    bound = webhook.bound
    task_id, config_id = (bound.task_id, bound.config_id) if bound else ("", "")
    return old.TaskPushNotificationConfig(
        name=f"tasks/{task_id}{_CONFIGS}{config_id}",
        push_notification_config=old.PushNotificationConfig(id=config_id, url=webhook.plan.url),
    )


def task_body(view: TaskView) -> bytes:
    """Return the JSON document of a task, without what makes it larger than `MAX_TASK_BYTES`.

    What is left out is named in its metadata: the history first, then what is in files, which are described instead,
    then artifacts, then the message of its status.
    """
    task = task_to_proto(view)
    document: dict[str, Any] = {
        "kind": "task",
        "id": task.id,
        "contextId": task.context_id,
        "status": {"state": _state(task.status.state), "timestamp": task.status.timestamp.ToJsonString()},
        "artifacts": _artifacts(task),
        "history": [_message(one) for one in task.history],
        "metadata": json_format.MessageToDict(task.metadata),
    }
    if task.status.HasField("message"):
        document["status"]["message"] = _message(task.status.message)
    body = to_json(document)
    left_out: list[str] = []
    status = document["status"]
    for name, holder in (("history", document), (_CONTENTS, document), ("artifacts", document), ("message", status)):
        if len(body) <= MAX_TASK_BYTES:
            break
        if name == _CONTENTS and any(file.content for file in view.files):
            files = [replace(file, content=None) for file in view.files]
            document["artifacts"] = _artifacts(task_to_proto(replace(view, files=files)))
        elif not holder.pop(name, None):
            continue
        left_out.append(name)
        document["metadata"][_LEFT_OUT] = left_out
        body = to_json(document)
    return body


def _artifacts(task: pb.Task) -> list[dict[str, Any]]:
    return [
        {"artifactId": one.artifact_id, "name": one.name, "parts": [_part(part) for part in one.parts]}
        for one in task.artifacts
    ]


def _state(state: pb.TaskState) -> str:
    return pb.TaskState.Name(state).removeprefix("TASK_STATE_").lower().replace("_", "-")


def _message(message: pb.Message) -> dict[str, Any]:
    return {
        "kind": "message",
        "messageId": message.message_id,
        "taskId": message.task_id,
        "contextId": message.context_id,
        "role": "user" if message.role == pb.ROLE_USER else "agent",
        "parts": [_part(part) for part in message.parts],
    }


def _part(part: pb.Part) -> dict[str, Any]:
    match part.WhichOneof("content"):
        case "data":
            data = json_format.MessageToDict(part)["data"]
            return {"kind": "data", "data": data if isinstance(data, dict) else {"value": data}}
        case "raw" | "url" as content:
            described = json_format.MessageToDict(part)
            file = {"bytes": described["raw"]} if content == "raw" else {"uri": part.url}
            return {"kind": "file", "file": {"name": part.filename, "mimeType": part.media_type, **file}}
        case _:
            return {"kind": "text", "text": part.text}
