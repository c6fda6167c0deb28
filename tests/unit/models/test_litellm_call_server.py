"""The calls that the helper process of litellm knows of."""

import asyncio
import json
from typing import Any, cast

from services.common.containment.network_files import network_file_identities
from services.models.providers.litellm.call_server import Helper


class Written:
    """Takes what the helper says."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def framed(**frame: Any) -> bytes:
    data = json.dumps(frame).encode()
    return len(data).to_bytes(4, "big") + data


async def test_a_call_that_is_cancelled_before_it_has_begun_is_forgotten() -> None:
    reader, written = asyncio.StreamReader(), Written()
    # Both come at once: the call has not begun when it is cancelled.
    reader.feed_data(framed(id=7, kind="complete", origin="https://example.com", limits={}, arguments={}))
    reader.feed_data(framed(id=7, kind="cancel"))
    reader.feed_eof()
    helper = Helper(None, cast("asyncio.StreamWriter", written), 1000, network_file_identities())
    await helper.serve(reader)
    for _ in range(5):
        await asyncio.sleep(0)
    assert helper._calls == {}
    assert written.data == framed(ready=True)
