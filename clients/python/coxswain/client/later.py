"""Modules of the client and messages of the API, each loaded at its first use.

The help of a command and completion need few of them, and gRPC, protobuf and YAML take longer to load than all else.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf import (
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        json_format,
        message_factory,
        struct_pb2,
        timestamp_pb2,
    )

    from coxswain.auth.v1 import (
        access_change_pb2,
        credential_pb2,
        delegation_pb2,
        group_limits_pb2,
        group_pb2,
        principal_pb2,
        secret_pb2,
        service_token_pb2,
    )
    from coxswain.client import (
        blocking_channel,
        crew_file,
        crewai_project,
        documents,
        errors,
        memory_file,
        message_reader,
        message_writer,
        policy,
        progress,
        provider_check,
        results,
        tool_source_file,
        values,
        watching,
    )
    from coxswain.common.v1 import access_pb2
    from coxswain.memory.v1 import (
        batch_search_pb2,
        document_pb2,
        memory_backend_pb2,
        memory_pb2,
        record_pb2,
        record_version_pb2,
        vector_index_pb2,
    )
    from coxswain.models.v1 import inference_pb2, model_pb2, usage_pb2
    from coxswain.orchestrator.v1 import (
        a2a_pb2,
        artifact_pb2,
        batch_pb2,
        crew_pb2,
        execution_pb2,
        question_pb2,
        question_state_pb2,
        schedule_pb2,
        tool_pb2,
        tool_source_pb2,
        tool_usage_pb2,
        webhook_pb2,
        worker_pb2,
        worker_service_pb2,
    )

__all__ = [
    "a2a_pb2",
    "access_change_pb2",
    "access_pb2",
    "artifact_pb2",
    "batch_pb2",
    "batch_search_pb2",
    "blocking_channel",
    "credential_pb2",
    "crew_file",
    "crew_pb2",
    "crewai_project",
    "delegation_pb2",
    "document_pb2",
    "documents",
    "duration_pb2",
    "empty_pb2",
    "errors",
    "execution_pb2",
    "field_mask_pb2",
    "group_limits_pb2",
    "group_pb2",
    "inference_pb2",
    "json_format",
    "memory_backend_pb2",
    "memory_file",
    "memory_pb2",
    "message_factory",
    "message_reader",
    "message_writer",
    "model_pb2",
    "policy",
    "principal_pb2",
    "progress",
    "provider_check",
    "question_pb2",
    "question_state_pb2",
    "record_pb2",
    "record_version_pb2",
    "results",
    "schedule_pb2",
    "secret_pb2",
    "service_token_pb2",
    "struct_pb2",
    "timestamp_pb2",
    "tool_pb2",
    "tool_source_file",
    "tool_source_pb2",
    "tool_usage_pb2",
    "usage_pb2",
    "values",
    "vector_index_pb2",
    "watching",
    "webhook_pb2",
    "worker_pb2",
    "worker_service_pb2",
]

_PACKAGES = (
    "coxswain.client",
    "coxswain.auth.v1",
    "coxswain.common.v1",
    "coxswain.memory.v1",
    "coxswain.models.v1",
    "coxswain.orchestrator.v1",
    "google.protobuf",
)


class _Later:
    """Stands for a module that is loaded when something of it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> object:
        return getattr(_module(self._name), name)


@cache
def _module(name: str) -> ModuleType:
    package = next(package for package in _PACKAGES if find_spec(f"{package}.{name}"))
    return import_module(f"{package}.{name}")


def __getattr__(name: str) -> _Later:
    if name in __all__:
        return _Later(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
