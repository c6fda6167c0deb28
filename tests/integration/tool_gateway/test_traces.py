"""Sources of tools continue the trace of a call where the operator names their hosts, and nowhere else."""

import pytest

from services.common.tracing.otlp import OtlpTracer
from services.common.tracing.spans import span, switch_on
from services.orchestrator.tool_gateway.adapters.grpc_provider.adapter import GrpcProviderAdapter
from tests.support.mcp_calls import calling, over_http
from tests.support.mcp_emulator import PAY, McpEmulator, result
from tests.support.otlp_receiver import collecting
from tests.support.tool_provider import (
    LOOPBACK,
    EmulatedProvider,
    GivenHeaders,
    RecordedProgress,
    call_of,
    served,
    source,
)


@pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])
@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
async def test_a_server_learns_of_a_trace_where_the_operator_says_so(told: bool, legacy: bool) -> None:
    with collecting() as collector, McpEmulator() as server:
        if legacy:
            server.legacy()
        else:
            # It has news to listen to.
            capabilities = {"tools": {"listChanged": True}}
            discovered = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities}
            listed = {"resultType": "complete", "tools": [PAY], "ttlMs": 600_000, "cacheScope": "private"}
            server.on |= {"server/discover": result(discovered), "tools/list": result(listed)}
        switch_on(OtlpTracer("test", ["127.0.0.1"] if told else []))
        async with calling() as caller:
            with span("work") as work:
                assert (await caller.call(over_http(server.address), "pay")).text == "paid"
                trace_id = work.trace_id
            if not legacy:
                await server.changes.wait(lambda: server.times("subscriptions/listen") > 0)
        [call] = [seen for seen in server.seen if seen.method == "tools/call"]
        meta = call.message["params"]["_meta"]
        assert "progressToken" in meta
        if not told:
            assert "traceparent" not in call.headers
            assert "traceparent" not in meta
            return
        assert call.headers["traceparent"].split("-")[1] == trace_id
        assert meta["traceparent"].split("-")[1] == trace_id
    # A session, and news, are listened to long after the call that has opened them.
    assert "GET" not in {found.name for found in collector.spans()}
    for listening in (seen for seen in server.seen if seen.method == "subscriptions/listen"):
        assert "traceparent" not in listening.headers
        assert "traceparent" not in listening.message["params"].get("_meta", {})
    posts = [found for found in collector.spans() if found.name == "POST"]
    assert call.headers["traceparent"].split("-")[2] in {post.span_id for post in posts}


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
async def test_a_tool_provider_learns_of_a_trace_where_the_operator_says_so(told: bool) -> None:
    provider = EmulatedProvider()
    adapter = GrpcProviderAdapter(
        LOOPBACK, GivenHeaders(), connect_seconds=30, look_up_seconds=9, max_result_bytes=1024
    )
    with collecting():
        switch_on(OtlpTracer("test", ["127.0.0.1"] if told else []))
        async with served(provider) as port:
            with span("work") as work:
                await adapter.call(call_of(source(f"127.0.0.1:{port}")), RecordedProgress())
            await adapter.close()
        [metadata] = provider.metadata
        assert metadata.get("traceparent") == (work.traceparent if told else None)
