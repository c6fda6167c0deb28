"""What the files of executions are made of."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from services.common.clock import utc_now
from services.common.ids import new_id
from services.orchestrator.domain.artifact import Artifact, file_name, media_type_of
from services.orchestrator.domain.crew import TaskSpec
from services.orchestrator.domain.execution import Execution, TaskOutput
from services.orchestrator.placeholders import interpolate

# Below, a thread costs more than the work.
_LARGE_BYTES = 64 * 1024


def output_file_name(task: TaskSpec, inputs: Mapping[str, Any]) -> str:
    """Return the name of the file that a task's result is stored in, its placeholders filled in.

    Raises:
        BadFileName: with these inputs it is no name.
        KeyError: an input is missing.
    """
    return file_name(interpolate(task.output_file, inputs))


def result_content(output: TaskOutput) -> bytes:
    """Return a result as its file has it: an object as JSON, anything else as the agent wrote it."""
    if output.structured is None:
        return output.text.encode()
    return f"{json.dumps(output.structured, ensure_ascii=False, indent=2)}\n".encode()


async def sha256_of(content: bytes) -> str:
    """Return the SHA-256 of a content in hexadecimal digits."""
    if len(content) < _LARGE_BYTES:
        return hashlib.sha256(content).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())


def new_artifact(
    execution: Execution,
    task_index: int,
    task_name: str,
    name: str,
    size: int,
    sha256: str,
    *,
    revision: int,
    call_id: str = "",
    media_type: str = "",
) -> Artifact:
    """Return what is to be known of a content that becomes a file's next revision.

    Without a `call_id` it is the task's result. An empty media type follows from the name; the content is text then.
    """
    return Artifact(
        id=new_id(),
        group_id=execution.group_id,
        execution_id=execution.id,
        name=name,
        task_index=task_index,
        task_name=task_name,
        call_id=call_id,
        media_type=media_type or media_type_of(name, text=True),
        size=size,
        sha256=sha256,
        revision=revision,
        created_at=utc_now(),
    )
