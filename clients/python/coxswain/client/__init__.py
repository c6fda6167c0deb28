"""The Python client of Coxswain: blocking and asyncio, with a watch that survives lost connections.

from coxswain.client import Client, load_crew

with Client("127.0.0.1:50051") as client:
    execution = client.run(load_crew("crew.yaml"), {"text": "..."})
    print(execution.result.text)

Threads may share a Client; an AsyncClient belongs to one event loop. Both have the same methods.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coxswain.client.aio import AsyncClient
    from coxswain.client.blocking import Client
    from coxswain.client.connection import Connection, Tls
    from coxswain.client.crew_file import load_crew
    from coxswain.client.crewai_project import ImportedCrew, load_crewai_project
    from coxswain.client.documents import DocumentError, Problem
    from coxswain.client.errors import (
        Aborted,
        AlreadyExists,
        Cancelled,
        CoxswainError,
        DeadlineExceeded,
        FailedPrecondition,
        FieldViolation,
        Internal,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
    )
    from coxswain.client.results import AppliedCrew, CrewReference, ExecutionNotSucceeded

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AppliedCrew",
    "AsyncClient",
    "Cancelled",
    "Client",
    "Connection",
    "CoxswainError",
    "CrewReference",
    "DeadlineExceeded",
    "DocumentError",
    "ExecutionNotSucceeded",
    "FailedPrecondition",
    "FieldViolation",
    "ImportedCrew",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "Problem",
    "ResourceExhausted",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "load_crew",
    "load_crewai_project",
]

_MODULES = {
    "aio": ("AsyncClient",),
    "blocking": ("Client",),
    "connection": ("Connection", "Tls"),
    "crew_file": ("load_crew",),
    "crewai_project": ("ImportedCrew", "load_crewai_project"),
    "documents": ("DocumentError", "Problem"),
    "errors": (
        "Aborted",
        "AlreadyExists",
        "Cancelled",
        "CoxswainError",
        "DeadlineExceeded",
        "FailedPrecondition",
        "FieldViolation",
        "Internal",
        "InvalidArgument",
        "NotFound",
        "PermissionDenied",
        "ResourceExhausted",
        "Unauthenticated",
        "Unavailable",
        "Unimplemented",
    ),
    "results": ("AppliedCrew", "CrewReference", "ExecutionNotSucceeded"),
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and gRPC only with what needs it: the command line starts without."""
    for module, names in _MODULES.items():
        if name in names:
            value: object = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
