"""What it means to callers that a peer cannot be asked for what it offers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.common.errors import FailedPrecondition, Unavailable
from services.orchestrator.tool_gateway.adapters.grpc_peer.channels import PeerUnreachable
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent

LIST_SECONDS = 30.0


@contextlib.asynccontextmanager
async def listing(source: str, wanted: str) -> AsyncIterator[None]:
    """Limit a block in time that asks a source, and turn its failures into errors for callers.

    `wanted` is what the source did not do when time is over. Example: "list its tools".
    """
    try:
        async with asyncio.timeout(LIST_SECONDS):
            yield
    except CallRefused as refused:
        raise FailedPrecondition(str(refused), reason=refused.reason) from None
    except NotSent as failure:
        raise Unavailable(str(failure), reason=failure.reason, retry_after=failure.retry_after) from None
    except PeerUnreachable as error:
        raise Unavailable(f"{source}: {error}", reason="TOOL_UNAVAILABLE") from None
    except TimeoutError:
        raise Unavailable(f"{source} did not {wanted} within {LIST_SECONDS:g} s", reason="TOOL_UNAVAILABLE") from None
