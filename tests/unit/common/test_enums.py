"""Members and values of the protos stand for each other by their names."""

from enum import IntEnum, StrEnum

import pytest

from coxswain.auth.v1 import principal_pb2
from coxswain.common.v1 import access_pb2
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.identity.principal import CredentialKind, Role


class Access(StrEnum):
    PUBLIC = "anything"
    INTERNAL = "else"


class Unknown(StrEnum):
    NOWHERE = "nowhere"


@pytest.mark.parametrize("member", list(Access))
def test_a_member_comes_back_by_its_name_whatever_its_value(member: Access) -> None:
    number = enum_to_proto(access_pb2.Access, member)
    assert access_pb2.Access.Name(number) == f"ACCESS_{member.name}"
    assert enum_from_proto(Access, access_pb2.Access, number) is member


@pytest.mark.parametrize(
    ("kind", "proto_enum"), [(Role, access_pb2.Role), (CredentialKind, principal_pb2.CredentialKind)]
)
def test_the_prefix_follows_from_the_name_of_the_enum(kind: type[IntEnum], proto_enum: object) -> None:
    for member in kind:
        assert enum_to_proto(proto_enum, member) == member  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, 99])
def test_a_value_without_a_member_is_refused_with_those_there_are(number: int) -> None:
    with pytest.raises(InvalidArgument, match="choose one of ACCESS_PUBLIC, ACCESS_INTERNAL"):
        enum_from_proto(Access, access_pb2.Access, number)


def test_a_member_without_a_value_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="NOWHERE"):
        enum_to_proto(access_pb2.Access, Unknown.NOWHERE)
