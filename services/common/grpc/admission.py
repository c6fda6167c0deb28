"""Who may make a call, and go on with it."""

from collections.abc import Mapping

from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied, Unauthenticated
from services.common.grpc.call import Call
from services.common.grpc.group_traffic import GroupTraffic
from services.common.grpc.method import Method
from services.common.identity.authenticator import PRINCIPAL, SERVICE, Authenticator, Credential, inbound_credential
from services.common.identity.principal import Principal, Role


class Admission:
    """Lets the callers of one listener in."""

    def __init__(
        self, authenticator: Authenticator, traffic: GroupTraffic, *, internal: bool, stream_check_seconds: float
    ) -> None:
        """`internal` says which listener it is; callers of streams are verified again when nothing is remembered of
        them any more, or every `stream_check_seconds` where nothing is.
        """
        self._authenticator = authenticator
        self._traffic = traffic
        self._internal = internal
        self._stream_check_seconds = stream_check_seconds

    async def admit(self, call: Call, method: Method, metadata: Mapping[str, str]) -> None:
        """Find out who makes a call, by the metadata that came with it, and let in who may.

        Raises:
            CoxswainError: they may not, or nobody can say who they are.
        """
        service_token, principal_token = metadata.get(SERVICE, ""), metadata.get(PRINCIPAL, "")
        if service_token or principal_token:
            await self._admit_service(call, method, service_token, principal_token)
        else:
            call.credential = inbound_credential(metadata)
            if method.access.internal:
                raise PermissionDenied(
                    f"{method.path} serves Coxswain services only", reason="SERVICE_IDENTITY_REQUIRED"
                )
            if method.access.role is not Role.ANONYMOUS:
                call.principal = await self._authenticator.caller(call.credential, call.group_header)
                # A limit must not keep those from their work who can change it.
                if not (call.principal.platform_admin and method.access.role is Role.PLATFORM_ADMIN):
                    self._traffic.count_call(call.principal, lifts_limits=method.access.lifts_limits)
        if method.access.role is not Role.ANONYMOUS:
            _require_role(call.principal, method.access.role)

    async def _admit_service(self, call: Call, method: Method, service_token: str, principal_token: str) -> None:
        if not self._internal:
            raise Unauthenticated(
                f"{SERVICE} and {PRINCIPAL} are not accepted here; send authorization", reason="PRINCIPAL_NOT_ACCEPTED"
            )
        if not service_token:
            raise Unauthenticated(f"{PRINCIPAL} counts only beside {SERVICE}", reason="SERVICE_IDENTITY_REQUIRED")
        call.service = self._authenticator.service(service_token, method.service)
        if method.access.internal and call.service not in method.access.callers:
            callers = ", ".join(sorted(method.access.callers))
            raise PermissionDenied(
                f"{method.path} does not serve {call.service}, only {callers}",
                reason="SERVICE_NOT_ALLOWED",
                metadata={"service": call.service, "callers": callers},
            )
        if principal_token:
            call.principal = await self._authenticator.forwarded(principal_token)

    async def wait_for_change(self, credential: Credential, group_header: str, principal: Principal) -> None:
        """Wait until a caller may no longer be who they were; see `readmit`."""
        # What is remembered of the caller may be old already: a fixed pace would add that age to the time they get.
        remembered = self._authenticator.remembered_seconds(credential, group_header)
        await self._authenticator.wait_for_change(principal, remembered or self._stream_check_seconds)

    async def readmit(self, credential: Credential, group_header: str, admitted: Principal) -> Principal | None:
        """Return the present principal of a caller who was let in; None while nobody can say who they are.

        Raises:
            Unauthenticated, PermissionDenied, FailedPrecondition: they are no longer who was let in.
        """
        try:
            principal = await self._authenticator.caller(credential, group_header)
        except (Unauthenticated, PermissionDenied, FailedPrecondition):
            raise
        except CoxswainError:
            # Auth cannot be asked just now, which says nothing about the caller.
            return None
        _require_admitted(principal, admitted)
        return principal


def _require_admitted(principal: Principal, admitted: Principal) -> None:
    if (principal.subject, principal.group_id) != (admitted.subject, admitted.group_id):
        raise PermissionDenied(
            "the call was made in another group than the one you are in now; call again, and name the group with "
            "x-group-id",
            reason="GROUP_NOT_MEMBER",
            metadata={"group": admitted.group_id},
        )
    if admitted.platform_admin and not principal.platform_admin:
        _require_role(principal, Role.PLATFORM_ADMIN)
    # Also where the method asks for less: what the handler has shown or done may have been for the higher role.
    _require_role(principal, admitted.role)


def _require_role(principal: Principal | None, role: Role) -> None:
    if principal is None:
        raise Unauthenticated("this method needs to know on whose behalf it is called")
    if role is Role.PLATFORM_ADMIN:
        if not principal.platform_admin:
            raise PermissionDenied(
                "this method needs platform administration: ask a platform admin of the installation",
                reason="ROLE_REQUIRED",
                metadata={"required": role.name, "actual": principal.role.name},
            )
    elif principal.role < role:
        raise PermissionDenied(
            f"this method needs the role {role.name}; you are {principal.role.name} of this group: ask an admin of it",
            reason="ROLE_REQUIRED",
            metadata={"required": role.name, "actual": principal.role.name},
        )
