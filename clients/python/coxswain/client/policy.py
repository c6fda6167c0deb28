"""Which calls are repeated, and default deadlines: read from the options of the protos."""

import importlib
import json
import pkgutil
from collections.abc import Iterator

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from coxswain.models.v1 import inference_service_pb2

_PACKAGES = ("auth", "memory", "models", "orchestrator")


def _service_files() -> Iterator[FileDescriptor]:
    for name in _PACKAGES:
        package = importlib.import_module(f"coxswain.{name}.v1")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if module.name.endswith("_service_pb2"):
                yield importlib.import_module(module.name).DESCRIPTOR


FILES = tuple(_service_files())

REQUEST_ID = "request_id"

# Models are slow; 0.1 s + 0.2 s + ... covers the replacement of one replica of several.
INFERENCE_TIMEOUT = 600.0
RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def methods() -> Iterator[MethodDescriptor]:
    """Every method of every service a client can call."""
    for file in FILES:
        for service in file.services_by_name.values():
            yield from service.methods


def is_repeatable(method: MethodDescriptor) -> bool:
    """Whether a call may be sent again when it is not known if the first one arrived.

    Either the method says so, or its request has a ``request_id``, which the client always fills in: creates are
    IDEMPOTENCY_UNKNOWN to clients in general and safe to repeat for this one.
    """
    level = method.GetOptions().idempotency_level
    return (
        level in {MethodOptions.IDEMPOTENT, MethodOptions.NO_SIDE_EFFECTS}
        or REQUEST_ID in method.input_type.fields_by_name
    )


def service_config() -> str:
    """The gRPC service config: round robin over all addresses that say they serve, and retries of what may be repeated.

    Streams are not retried here but by their reader: gRPC may hide the end of one after its last retry has failed.
    """
    names = [
        {"service": method.containing_service.full_name, "method": method.name}
        for method in methods()
        if is_repeatable(method) and not method.server_streaming
    ]
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": ""},
            "methodConfig": [{"name": names, "retryPolicy": RETRY_POLICY}],
        }
    )


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


# Their proto is not among ours.
_OF_AGENTS = ("/lf.a2a.v1.A2AService/SendStreamingMessage", "/lf.a2a.v1.A2AService/SubscribeToTask")
STREAMING = frozenset((*(_path(method) for method in methods() if method.server_streaming), *_OF_AGENTS))
_INFERENCE = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name


def default_timeout(path: str, timeout: float) -> float | None:
    """Default deadline of a call in seconds; None for streams of events and of progress, which have no deadline."""
    if path.startswith(f"/{_INFERENCE}/"):
        return max(timeout, INFERENCE_TIMEOUT)
    return None if path in STREAMING else timeout
