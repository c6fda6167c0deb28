"""What auth's messages leave open, and what they never carry."""

from datetime import UTC, datetime

import pytest

from coxswain.auth.v1 import delegation_pb2
from coxswain.common.v1 import access_pb2
from services.auth.domain import ExecutionIdentity, OnCredentialExpiry
from services.auth.servicers.messages import expiry_from_proto, identity_from_proto, principal_to_proto
from services.common.identity.principal import CredentialKind, Principal, Role


def principal(group_id: str) -> Principal:
    return Principal(
        subject="dev|alice",
        group_id=group_id,
        role=Role.EDITOR,
        platform_admin=False,
        credential_kind=CredentialKind.DEV,
        session_id="a-session",
        execution_id="",
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
        token="a-token",
    )


@pytest.mark.parametrize(
    ("number", "identity"),
    [
        (delegation_pb2.EXECUTION_IDENTITY_UNSPECIFIED, None),
        (delegation_pb2.EXECUTION_IDENTITY_USER, ExecutionIdentity.USER),
        (delegation_pb2.EXECUTION_IDENTITY_GROUP, ExecutionIdentity.GROUP),
    ],
)
def test_an_identity_may_be_left_to_auth(
    number: delegation_pb2.ExecutionIdentity.ValueType, identity: ExecutionIdentity | None
) -> None:
    assert identity_from_proto(number) is identity


def test_an_execution_parks_by_default() -> None:
    assert expiry_from_proto(delegation_pb2.ON_CREDENTIAL_EXPIRY_UNSPECIFIED) is OnCredentialExpiry.PARK
    assert expiry_from_proto(delegation_pb2.ON_CREDENTIAL_EXPIRY_FAIL) is OnCredentialExpiry.FAIL


def test_a_role_is_shown_only_in_a_group() -> None:
    assert principal_to_proto(principal("sales")).role == access_pb2.ROLE_EDITOR
    assert principal_to_proto(principal("")).role == access_pb2.ROLE_UNSPECIFIED


def test_a_principals_message_carries_neither_its_token_nor_its_session() -> None:
    message = principal_to_proto(principal("sales")).SerializeToString()
    assert b"a-token" not in message
    assert b"a-session" not in message
