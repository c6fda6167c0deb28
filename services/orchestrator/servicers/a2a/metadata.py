"""What the metadata of a call says: the version of the protocol, extensions, and how a send is repeated."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from a2a.types import a2a_pb2 as pb

from services.common.db.idempotency import RequestKey, request_hash
from services.common.errors import InvalidArgument
from services.common.grpc.handler import Context
from services.common.identity.principal import Principal
from services.orchestrator.a2a_03 import TENANT_KEY
from services.orchestrator.domain.a2a_errors import a2a_error

VERSION, VERSION_03 = "1.0", "0.3"
_VERSION_KEY, _EXTENSIONS_KEY = "a2a-version", "a2a-extensions"
_REQUEST_ID_KEY, _AFTER_KEY = "x-request-id", "x-after-sequence"


@dataclass(frozen=True, slots=True)
class Extensions:
    """The URIs of what we add to the protocol."""

    idempotent: str
    """A repeated message_id is the same message."""
    resume: str
    """A stream begins after a sequence."""
    tenant: str
    """A message of 0.3 names the tenant that it is for."""

    @classmethod
    def below(cls, prefix: str) -> "Extensions":
        """Return the URIs that begin with a prefix."""
        return cls(idempotent=f"{prefix}/idempotent/v1", resume=f"{prefix}/resume/v1", tenant=f"{prefix}/tenant/v1")


@dataclass(frozen=True, slots=True)
class CallMetadata:
    """What the metadata of a call says."""

    request_id: str
    """Empty when the caller named none."""
    idempotent: bool
    after_sequence: int | None
    """None for a stream from the task as it stands."""
    tenant: str
    """For 0.3, whose messages have none; empty when none is named."""

    def request_key(self, principal: Principal, request: pb.SendMessageRequest) -> RequestKey | None:
        """Return what makes a send the same as another one; None where each is a message of its own."""
        key = self.request_id or (request.message.message_id if self.idempotent else "")
        if not key:
            return None
        named = hashlib.sha256(f"{len(request.tenant)}:{request.tenant}{key}".encode()).hexdigest()
        return RequestKey(principal.group_id, principal.subject, "A2A.SendMessage", named, request_hash(request))


def read_metadata(context: Context, extensions: Extensions, *, served: str, assumed: str) -> CallMetadata:
    """Return what the metadata of a call says, and tell the caller which extensions are applied.

    `served` is the version of the service, `assumed` the one that calls without a version mean.

    Raises:
        Unimplemented: VERSION_NOT_SUPPORTED.
        InvalidArgument: x-after-sequence is not a number.
    """
    sent = [(key, value) for key, value in context.invocation_metadata() or () if isinstance(value, str)]
    metadata = dict(sent)
    _require_version(metadata.get(_VERSION_KEY, "").strip() or assumed, served)
    wanted = _listed(value for key, value in sent if key == _EXTENSIONS_KEY)
    applied = [uri for uri in (extensions.idempotent, extensions.resume) if uri in wanted]
    if applied:
        context.set_trailing_metadata(((_EXTENSIONS_KEY, ",".join(applied)),))
    after = metadata.get(_AFTER_KEY, "") if extensions.resume in applied else ""
    if after and not (after.isascii() and after.isdecimal() and len(after) < 19):
        raise InvalidArgument.field(_AFTER_KEY, "must be the metadata coxswain/sequence of what was received last")
    return CallMetadata(
        metadata.get(_REQUEST_ID_KEY, ""),
        extensions.idempotent in applied,
        int(after) if after else None,
        metadata.get(TENANT_KEY, ""),
    )


def _require_version(version: str, served: str) -> None:
    if ".".join(version.split(".")[:2]) != served:
        raise a2a_error(
            "VERSION_NOT_SUPPORTED",
            f"version {version[:32]} of A2A is not served by this service; send {_VERSION_KEY}: {served}",
            requested=version[:32],
            supported=served,
        )


def _listed(values: Iterable[str]) -> set[str]:
    return {uri.strip() for value in values for uri in value.split(",")}
