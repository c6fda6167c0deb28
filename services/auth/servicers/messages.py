"""Between auth's domain and its messages."""

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.auth.v1 import (
    access_change_pb2,
    credential_pb2,
    delegation_pb2,
    group_pb2,
    principal_pb2,
    secret_pb2,
    service_token_pb2,
)
from coxswain.common.v1 import access_pb2
from services.auth.domain import (
    CredentialExplanation,
    CredentialPurpose,
    CredentialReference,
    ExecutionIdentity,
    Grant,
    Group,
    LinkExplanation,
    Member,
    OnCredentialExpiry,
    ResolvedCredential,
    RotationProgress,
    Secret,
    ServiceToken,
)
from services.auth.identity.service_tokens import subject_of
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.grpc.times import timestamp_to_proto
from services.common.identity.access_changes import AccessChange
from services.common.identity.principal import Principal, Role


def role_from_proto(number: access_pb2.Role.ValueType) -> Role:
    """Return a member's role."""
    return enum_from_proto(Role, access_pb2.Role, number)


def principal_to_proto(principal: Principal) -> principal_pb2.Principal:
    """Return a principal without its token."""
    return principal_pb2.Principal(
        subject=principal.subject,
        group_id=principal.group_id,
        role=enum_to_proto(access_pb2.Role, principal.role) if principal.group_id else access_pb2.ROLE_UNSPECIFIED,
        platform_admin=principal.platform_admin,
        credential_kind=enum_to_proto(principal_pb2.CredentialKind, principal.credential_kind),
        execution_id=principal.execution_id,
        expire_time=timestamp_to_proto(principal.expires_at),
    )


def membership_to_proto(group_id: str, role: Role) -> principal_pb2.GroupMembership:
    """Return a role in a group."""
    return principal_pb2.GroupMembership(group_id=group_id, role=enum_to_proto(access_pb2.Role, role))


def key_to_proto(kid: str, key: Ed25519PublicKey) -> principal_pb2.JsonWebKey:
    """Return a public signing key."""
    x = base64.urlsafe_b64encode(key.public_bytes_raw()).rstrip(b"=").decode()
    return principal_pb2.JsonWebKey(kid=kid, kty="OKP", alg="EdDSA", crv="Ed25519", x=x, use="sig")


def reference_from_proto(
    request: credential_pb2.ResolveCredentialRequest | credential_pb2.ExplainCredentialRequest,
) -> CredentialReference:
    """Return which credential a request is about."""
    purpose = enum_from_proto(CredentialPurpose, credential_pb2.CredentialPurpose, request.purpose)
    return CredentialReference(purpose, request.destination_origin, request.provider, request.secret_name)


def explanation_to_proto(explanation: CredentialExplanation) -> credential_pb2.ExplainCredentialResponse:
    """Return the results of the links of a chain."""
    return credential_pb2.ExplainCredentialResponse(
        links=map(_link_to_proto, explanation.links),
        resolvable=explanation.origin is not None,
        origin=explanation.origin or "",
    )


def _link_to_proto(link: LinkExplanation) -> credential_pb2.LinkExplanation:
    return credential_pb2.LinkExplanation(
        link=link.link, outcome=enum_to_proto(credential_pb2.LinkOutcome, link.outcome), detail=link.detail
    )


def credential_to_proto(credential: ResolvedCredential) -> credential_pb2.ResolveCredentialResponse:
    """Return a resolved credential."""
    return credential_pb2.ResolveCredentialResponse(
        token=credential.token,
        origin=credential.origin,
        link=credential.link,
        expire_time=timestamp_to_proto(credential.expires_at),
        on_behalf_of_user=credential.on_behalf_of_user,
    )


def identity_from_proto(number: delegation_pb2.ExecutionIdentity.ValueType) -> ExecutionIdentity | None:
    """Return as whom an execution acts, None when it is left to auth."""
    return enum_from_proto(ExecutionIdentity, delegation_pb2.ExecutionIdentity, number) if number else None


def expiry_from_proto(number: delegation_pb2.OnCredentialExpiry.ValueType) -> OnCredentialExpiry:
    """Return what happens when the user's token expires; PARK when it is not specified."""
    return enum_from_proto(
        OnCredentialExpiry, delegation_pb2.OnCredentialExpiry, number or delegation_pb2.ON_CREDENTIAL_EXPIRY_PARK
    )


def grant_to_proto(grant: Grant) -> delegation_pb2.CreateDelegationResponse:
    """Return the grant of an execution."""
    return delegation_pb2.CreateDelegationResponse(
        grant_id=grant.id, identity=enum_to_proto(delegation_pb2.ExecutionIdentity, grant.identity)
    )


def group_to_proto(group: Group) -> group_pb2.Group:
    """Return a group."""
    return group_pb2.Group(
        id=group.id, display_name=group.display_name, create_time=timestamp_to_proto(group.created_at)
    )


def member_to_proto(member: Member) -> group_pb2.Member:
    """Return a member of a group."""
    return group_pb2.Member(
        subject=member.subject,
        role=enum_to_proto(access_pb2.Role, member.role),
        create_time=timestamp_to_proto(member.created_at),
        invited=member.invited,
    )


def secret_to_proto(secret: Secret) -> secret_pb2.Secret:
    """Return a secret without its value."""
    return secret_pb2.Secret(
        name=secret.name,
        fingerprint=secret.fingerprint,
        allowed_origins=secret.allowed_origins,
        key_id=secret.sealed.key_id,
        create_time=timestamp_to_proto(secret.created_at),
        update_time=timestamp_to_proto(secret.updated_at),
    )


def progress_to_proto(progress: RotationProgress) -> secret_pb2.RotateKeyResponse:
    """Return how far a rotation has come."""
    return secret_pb2.RotateKeyResponse(done=progress.done, total=progress.total, key_id=progress.key_id)


def service_token_to_proto(token: ServiceToken) -> service_token_pb2.ServiceToken:
    """Return what is kept of a token as a message."""
    return service_token_pb2.ServiceToken(
        name=token.name,
        subject=subject_of(token.group_id, token.name),
        role=enum_to_proto(access_pb2.Role, token.role),
        created_by=token.created_by,
        create_time=timestamp_to_proto(token.created_at),
        expire_time=timestamp_to_proto(token.expires_at),
        last_use_time=timestamp_to_proto(token.last_used_at),
    )


def access_change_to_proto(change: AccessChange) -> access_change_pb2.AccessChange:
    """Return a change as a message."""
    return access_change_pb2.AccessChange(
        subject=change.subject,
        group_id=change.group_id,
        change_time=_moment(change.changed_at),
        revoke_time=_moment(change.revoked_at) if change.revoked_at else None,
    )


def _moment(seconds: float) -> Timestamp:
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message
