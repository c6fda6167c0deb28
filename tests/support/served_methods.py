"""Every method that callers can reach, with what it asks of them: ours, and those of other protocols that we serve."""

from collections.abc import Iterator
from dataclasses import dataclass

from a2a.compat.v0_3 import a2a_v0_3_pb2
from a2a.types import a2a_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

from services.common.grpc.access import ForeignService, MethodAccess, read_access
from services.orchestrator.servicers.a2a.access import A2A_SERVICE, A2A_SERVICE_03
from tests.support.descriptors import product_services

FOREIGN: tuple[tuple[FileDescriptor, ForeignService], ...] = (
    (a2a_pb2.DESCRIPTOR, A2A_SERVICE),
    (a2a_v0_3_pb2.DESCRIPTOR, A2A_SERVICE_03),
)
"""Services of other protocols; a test holds this to what a running suite serves."""


_SHORT = {a2a_pb2.DESCRIPTOR.package: "A2A", a2a_v0_3_pb2.DESCRIPTOR.package: "A2A03"}


def foreign_name(method: MethodDescriptor) -> str:
    """Return a short name of a method of another protocol; the services of its versions have the same name."""
    return f"{_SHORT[method.containing_service.file.package]}.{method.name}"


@dataclass(frozen=True, slots=True)
class ServedMethod:
    """A method of a public listener."""

    method: MethodDescriptor
    access: MethodAccess
    foreign: bool = False


def served_methods() -> Iterator[ServedMethod]:
    """Yield all methods of public listeners."""
    for service in product_services():
        # Tool providers serve these; they are ours to call.
        if service.full_name != "coxswain.tools.v1.ToolProvider":
            for method in service.methods:
                access = read_access(method)
                if not access.internal:
                    yield ServedMethod(method, access)
    for file, rules in FOREIGN:
        for service in file.services_by_name.values():
            for method in service.methods:
                yield ServedMethod(method, rules.access(method), foreign=True)
