"""The options every method carries: who may call it, and whether it may be repeated."""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor

from coxswain.common.v1 import access_pb2
from services.common.identity.principal import Role
from services.common.settings import PARTS, SERVICES


@dataclass(frozen=True, slots=True)
class MethodAccess:
    """What a method asks of its callers."""

    internal: bool
    """Whether it serves other services only, on the internal listener only."""
    role: Role
    """The least role."""
    repeatable: bool
    """Whether calling it twice does what calling it once does."""
    callers: frozenset[str] = frozenset()
    """The services that may call it, when it is internal."""
    audited: bool = False
    """Whether the audit log has its calls: whatever changes something and is not marked `unaudited`."""
    lifts_limits: bool = False
    """Whether a group that has no calls left may still make some of it."""
    waits: bool = False
    """Whether a unary method may be answered long after it was called: it then counts as a stream."""

    heavy: bool = False
    """Whether its calls have a line of their own, of which no more are worked on at once while their group is alone."""

    @property
    def open_to_strangers(self) -> bool:
        """Whether it needs no credential of any kind."""
        return self.role is Role.ANONYMOUS and not self.internal


@dataclass(frozen=True, slots=True)
class ForeignService:
    """A service of another protocol, whose proto cannot carry our options."""

    owner: str
    """The service of ours that serves it. Example: `orchestrator`."""
    methods: Mapping[str, MethodAccess]
    """What each of its methods asks, by name."""

    def access(self, method: MethodDescriptor) -> MethodAccess:
        """Return what a method asks. Raises ValueError: it is missing here."""
        if method.name not in self.methods:
            raise ValueError(f"nothing says who may call {method.full_name}")
        return self.methods[method.name]


def read_access(method: MethodDescriptor) -> MethodAccess:
    """Return a method's options.

    Raises:
        ValueError: one of `access`, `role`, `idempotency_level` and, of an internal method, `callers` is missing, or
            `callers` names what is not a service, or a public method has them; or `unaudited` is said of a method that
            changes nothing, or `takes_turns` of a method that streams.
    """
    options = method.GetOptions()
    access = options.Extensions[access_pb2.access]
    role = options.Extensions[access_pb2.role]
    callers = frozenset(options.Extensions[access_pb2.callers])
    internal = access == access_pb2.ACCESS_INTERNAL
    missing = [
        name
        for name, present in (
            ("access", access != access_pb2.ACCESS_UNSPECIFIED),
            ("role", role != access_pb2.ROLE_UNSPECIFIED),
            ("idempotency_level", options.HasField("idempotency_level")),
            ("callers", bool(callers) or not internal),
        )
        if not present
    ]
    if missing:
        raise ValueError(f"{method.full_name} lacks the option {', '.join(missing)}")
    if unknown := callers - {*SERVICES, *PARTS}:
        raise ValueError(f"{method.full_name} names unknown services as callers: {', '.join(sorted(unknown))}")
    if callers and not internal:
        raise ValueError(f"{method.full_name} names callers, but serves everybody")
    changes = options.idempotency_level != descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    unaudited = options.Extensions[access_pb2.unaudited]
    if unaudited and not changes:
        raise ValueError(f"{method.full_name} is marked unaudited, but changes nothing")
    heavy = options.Extensions[access_pb2.takes_turns]
    if heavy and (method.server_streaming or method.client_streaming):
        raise ValueError(f"{method.full_name} is marked takes_turns, which only unary methods may be")
    return MethodAccess(
        internal=internal,
        role=Role(role),
        repeatable=options.idempotency_level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN,
        callers=callers,
        audited=changes and not unaudited,
        lifts_limits=options.Extensions[access_pb2.lifts_limits],
        heavy=heavy,
    )
