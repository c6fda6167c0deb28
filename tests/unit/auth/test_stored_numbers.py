"""Enums are stored by number: the rows of an existing installation keep their meaning."""

from enum import Enum

import pytest
from sqlalchemy import create_engine

from services.auth.domain import ExecutionIdentity, OnCredentialExpiry, SigningKeyState
from services.auth.tables import Numbered
from services.common.identity.principal import CredentialKind, Role

DIALECT = create_engine("sqlite://").dialect


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Role, ["ANONYMOUS", "OPERATOR", "EDITOR", "ADMIN", "PLATFORM_ADMIN"]),
        (CredentialKind, ["USER", "WORKLOAD", "GROUP", "DEV"]),
        (SigningKeyState, ["PENDING", "ACTIVE", "RETIRING"]),
        (ExecutionIdentity, ["USER", "GROUP"]),
        (OnCredentialExpiry, ["PARK", "FAIL", "USE_GROUP_IDENTITY"]),
    ],
)
def test_each_member_keeps_the_number_it_is_stored_by(kind: type[Enum], names: list[str]) -> None:
    column = Numbered(kind)
    for number, name in enumerate(names, start=1):
        assert column.process_bind_param(kind[name], DIALECT) == number
        assert column.process_result_value(number, DIALECT) is kind[name]
    assert len(kind) == len(names)


def test_nothing_is_stored_for_nothing() -> None:
    column = Numbered(Role)
    assert column.process_bind_param(None, DIALECT) is None
    assert column.process_result_value(None, DIALECT) is None
