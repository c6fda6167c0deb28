"""The options of methods: a server does not start while somebody forgot to decide one."""

import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2 as a2a_types_03
from a2a.types import a2a_pb2 as a2a_types
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool

from coxswain.auth.v1 import auth_service_pb2
from coxswain.common.v1 import access_pb2
from services.common.grpc.access import ForeignService, read_access
from services.common.grpc.peers import service_descriptors
from services.common.identity.principal import Role
from services.common.settings import SERVICES
from services.orchestrator.servicers.a2a.access import A2A_SERVICE, A2A_SERVICE_03

INTERNAL = {
    "access": access_pb2.ACCESS_INTERNAL,
    "role": access_pb2.ROLE_ANONYMOUS,
    "idempotency_level": descriptor_pb2.MethodOptions.IDEMPOTENT,
    "callers": ["models", "memory"],
}
PUBLIC = INTERNAL | {"access": access_pb2.ACCESS_PUBLIC, "callers": []}


def method(options: dict[str, object], *, streams: bool = False) -> MethodDescriptor:
    file = descriptor_pb2.FileDescriptorProto(name="toy.proto", package="toy", syntax="proto3")
    file.message_type.add(name="M")
    described = file.service.add(name="S").method.add(name="Do", input_type=".toy.M", output_type=".toy.M")
    described.server_streaming = streams
    for name, value in options.items():
        if name == "idempotency_level":
            described.options.idempotency_level = value  # type: ignore[assignment]
        elif name == "callers":
            described.options.Extensions[access_pb2.callers].extend(value)  # type: ignore[arg-type]
        else:
            described.options.Extensions[getattr(access_pb2, name)] = value
    pool = DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call,unused-ignore]
    found = pool.FindMethodByName("toy.S.Do")
    assert isinstance(found, MethodDescriptor)
    return found


def test_the_options_are_read() -> None:
    access = read_access(method(INTERNAL))
    assert (access.internal, access.role, access.repeatable) == (True, Role.ANONYMOUS, True)
    assert access.callers == {"models", "memory"}
    assert read_access(method(PUBLIC)).callers == set()


@pytest.mark.parametrize("name", ["access", "role", "idempotency_level", "callers"])
def test_a_method_that_lacks_an_option_is_refused_by_its_name(name: str) -> None:
    left = {option: value for option, value in INTERNAL.items() if option != name}
    with pytest.raises(ValueError, match=rf"toy\.S\.Do .*{name}"):
        read_access(method(left))


def test_a_caller_that_is_no_service_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown services as callers: modles"):
        read_access(method(INTERNAL | {"callers": ["models", "modles"]}))


def test_callers_of_a_method_that_serves_everybody_are_refused() -> None:
    with pytest.raises(ValueError, match="everybody"):
        read_access(method(PUBLIC | {"callers": ["models"]}))


def test_only_the_orchestrator_and_its_gateway_may_act_for_executions() -> None:
    assert auth_service_pb2.DESCRIPTOR is not None
    methods = Default().FindServiceByName("coxswain.auth.v1.AuthService").methods_by_name
    for name in ("CreateDelegation", "RenewDelegation", "RevokeDelegation"):
        assert read_access(methods[name]).callers == {"orchestrator"}
    # The gateway makes calls that outlast the principal they came with.
    assert read_access(methods["IssueExecutionPrincipal"]).callers == {"orchestrator", "tools"}
    # Neither the API nor a worker host gets a credential.
    assert read_access(methods["ResolveCredential"]).callers == {"memory", "models", "tools"}


def test_only_unary_methods_are_heavy() -> None:
    assert not read_access(method(PUBLIC)).heavy
    assert read_access(method(PUBLIC | {"takes_turns": True})).heavy
    with pytest.raises(ValueError, match="only unary methods"):
        read_access(method(PUBLIC | {"takes_turns": True}, streams=True))


def test_what_changes_something_is_audited_unless_it_is_marked() -> None:
    reads = PUBLIC | {"idempotency_level": descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS}
    assert read_access(method(PUBLIC)).audited
    assert not read_access(method(PUBLIC | {"unaudited": True})).audited
    assert not read_access(method(reads)).audited
    with pytest.raises(ValueError, match="changes nothing"):
        read_access(method(reads | {"unaudited": True}))


def test_only_the_traffic_of_crews_and_steps_of_other_calls_are_left_out_of_the_audit_log() -> None:
    methods = [
        method
        for package in SERVICES
        for service in service_descriptors(package)
        for method in service.methods
        if method.GetOptions().idempotency_level != descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    ]
    assert {method.name for method in methods if not read_access(method).audited} == {
        *("ExchangeToken", "IssueExecutionPrincipal"),
        *("Complete", "StreamComplete", "Embed"),
        *("SaveRecords", "TouchRecords", "UpsertIndexRecords"),
        *("ExecuteToolCall", "AnswerSourceQuestion", "CancelToolCall"),
        *("PublishHint", "ShareGroupTraffic"),
    }
    administered = [method for method in methods if read_access(method).role >= Role.ADMIN]
    assert len(administered) > 20
    assert all(read_access(method).audited for method in administered)


def test_a_foreign_service_says_of_each_method_who_may_call_it() -> None:
    access = read_access(method(PUBLIC))
    assert ForeignService("auth", {"Do": access}).access(method({})) is access
    with pytest.raises(ValueError, match=r"who may call toy\.S\.Do"):
        ForeignService("auth", {"Undo": access}).access(method({}))


def test_who_may_call_each_method_of_a2a_is_said() -> None:
    for types, said in ((a2a_types, A2A_SERVICE), (a2a_types_03, A2A_SERVICE_03)):
        assert set(said.methods) == set(types.DESCRIPTOR.services_by_name["A2AService"].methods_by_name)
        assert {access.role for access in said.methods.values()} == {Role.OPERATOR}
