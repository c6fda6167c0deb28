"""Which calls are recorded in the traces that their callers name."""

import grpc
import pytest

from coxswain.auth.v1 import auth_service_pb2_grpc, group_pb2, principal_pb2
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub
from services.common.tracing.otlp import OtlpTracer
from services.common.tracing.spans import switch_off, switch_on
from tests.support.harness import ALICE, Harness
from tests.support.otlp_receiver import collecting

_CREDENTIAL = ("authorization", f"Bearer {ALICE}")
_LIST = group_pb2.ListMembersRequest()


async def test_only_callers_who_are_let_in_decide_what_is_recorded(
    auth: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is recorded then is what callers want recorded.
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    groups = GroupServiceStub(auth.channel(""))
    anyone = auth_service_pb2_grpc.AuthServiceStub(auth.channel(""))

    def parent(trace: str) -> tuple[str, str]:
        return "traceparent", f"00-{trace * 32}-{'1' * 16}-01"

    with collecting() as collector:
        switch_on(OtlpTracer("test"))
        await groups.ListMembers(_LIST, metadata=(_CREDENTIAL, parent("a")))
        for trace, headers in {
            "c": (("authorization", "Bearer none"),),
            "d": (("x-coxswain-service", "made up"),),
            "e": (_CREDENTIAL, ("x-coxswain-service", "made up")),
        }.items():
            refused = groups.ListMembers(_LIST, metadata=(*headers, parent(trace)))
            assert await refused.code() is grpc.StatusCode.UNAUTHENTICATED, trace
        # It asks for no credential, whatever comes with it.
        await anyone.GetJwks(principal_pb2.GetJwksRequest(), metadata=(_CREDENTIAL, parent("f")))
        switch_off()
        assert {found.trace_id for found in collector.spans()} == {"a" * 32}


async def test_a_call_without_a_trace_begins_one_whatever_its_caller_adds(auth: Harness) -> None:
    anyone = auth_service_pb2_grpc.AuthServiceStub(auth.channel(""))
    with collecting() as collector:
        switch_on(OtlpTracer("test"))
        for headers in ((), (("traceparent", f"00-{'f' * 32}-{'1' * 16}-01"),)):
            await anyone.GetJwks(principal_pb2.GetJwksRequest(), metadata=headers)
        switch_off()
        found = [span for span in collector.spans() if span.name.endswith("/GetJwks")]
    assert [span.parent_id for span in found] == ["", ""]
    assert "f" * 32 not in {span.trace_id for span in found}
