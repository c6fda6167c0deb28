"""What is tried again between services follows from the options of every method, in whatever file it lies."""

import json

import pytest
from google.protobuf.descriptor import MethodDescriptor

from services.common.grpc.access import read_access
from services.common.grpc.peers import service_config
from services.common.settings import SERVICES
from tests.support.descriptors import product_services


def methods_of(service: str) -> list[MethodDescriptor]:
    return [
        method
        for described in product_services()
        if described.file.package == f"coxswain.{service}.v1"
        for method in described.methods
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_every_unary_method_that_may_be_repeated_is_tried_again_and_no_other(service: str) -> None:
    config = json.loads(service_config(service))
    retried = {(name["service"], name["method"]) for entry in config["methodConfig"] for name in entry["name"]}
    assert retried == {
        (method.containing_service.full_name, method.name)
        for method in methods_of(service)
        if read_access(method).repeatable and not method.server_streaming
    }
    assert retried
