"""The calls of Databricks Vector Search: paths, bodies, batches, pages."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar
from urllib.parse import quote

from services.common.egress import required_origin
from services.memory.stores.databricks.transport import ClientLimits, Request, Transport
from services.memory.stores.databricks.upstream_errors import bad_answer
from services.memory.stores.databricks.wire import (
    Json,
    QueryPage,
    WireRow,
    described,
    encode,
    encode_batches,
    failed_keys,
    listed,
    query_page,
    scan_page,
    unwritten,
)

_API = "/api/2.0/vector-search"
_MAX_LIST_PAGES = 1000

_Answer = TypeVar("_Answer")


class VectorSearchClient:
    """One method for each call; see `Transport` for how often it is sent, and with whose credential."""

    def __init__(self, transport: Transport, limits: ClientLimits) -> None:
        self._transport = transport
        self.limits = limits

    async def check_credential(self, workspace: str) -> None:
        """Find the credential for a workspace, and call nothing with it.

        Raises:
            CoxswainError: there is none.
        """
        await self._transport.check_credential(workspace)

    async def upsert(self, workspace: str, index: str, rows: Sequence[WireRow]) -> list[str]:
        """Write rows in batches and return the keys that were not written."""
        failed: list[str] = []
        for batch in await asyncio.to_thread(encode_batches, rows, self.limits.upsert_rows, self.limits.upsert_bytes):
            read = functools.partial(unwritten, keys=batch.keys)
            failed += await self._data(workspace, "POST", index, "upsert-data", batch.body, read)
        return failed

    async def delete(self, workspace: str, index: str, keys: Sequence[str]) -> tuple[int, list[str]]:
        """Remove rows in batches; return how many removals were accepted and the keys that were not."""
        accepted, failed = 0, list[str]()
        for start in range(0, len(keys), self.limits.delete_keys):
            batch = list(keys[start : start + self.limits.delete_keys])
            body, read = encode({"primary_keys": batch}), functools.partial(failed_keys, keys=batch)
            refused = await self._data(workspace, "DELETE", index, "delete-data", body, read)
            failed.extend(refused)
            accepted += len(batch) - len(refused)
        return accepted, failed

    async def query(self, workspace: str, index: str, body: Json, vector: str, *, scored: bool) -> QueryPage:
        """Return the first page of a query; `vector` is JSON text, empty for a query without one.

        `scored` says that each row needs its score.
        """
        encoded = encode(body)
        if vector:
            encoded = b'%s,"query_vector":%s}' % (encoded[:-1], vector.encode())
        read = functools.partial(query_page, scored=scored)
        return await self._data(workspace, "POST", index, "query", encoded, read)

    async def next_page(self, workspace: str, index: str, endpoint: str, token: str, *, scored: bool) -> QueryPage:
        """Return the page that a page's token leads to."""
        body = encode({"page_token": token, "endpoint_name": endpoint})
        read = functools.partial(query_page, scored=scored)
        return await self._data(workspace, "POST", index, "query-next-page", body, read)

    async def scan(self, workspace: str, index: str, after: str = "") -> AsyncIterator[tuple[list[Json], str]]:
        """Yield the rows whose keys follow `after`, vectors included, page by page in the order of their keys.

        With each page comes the key to continue after.
        """
        last, vague, passed = after, False, {after}
        while True:
            body: Json = {"num_results": self.limits.scan_rows}
            if last:
                body["last_primary_key"] = last
            page = await self._data(workspace, "POST", index, "scan", encode(body), scan_page)
            if page.vague and not page.rows and not vague:
                # The end may be an answer with nothing in it. So may be a spoilt one: the next tells.
                vague = True
                continue
            vague = False
            following = page.last_key
            if page.rows and following in passed:
                # The keys go in a circle: what is missing was not said.
                raise bad_answer(required_origin(workspace))
            if page.rows:
                yield page.rows, following
            if not page.rows or not following:
                return
            passed.add(following)
            last = following

    async def get_index(self, workspace: str, index: str, read: Callable[[Json], _Answer]) -> _Answer:
        """Return what `read` makes of the description of an index."""
        return await self._index(workspace, "GET", index, lambda answer: read(described(answer, index)))

    async def create_index(self, workspace: str, body: Json, read: Callable[[Json], _Answer]) -> _Answer:
        """Make an index, and return what `read` makes of its description."""
        name = body["name"]
        request = Request("POST", f"{_API}/indexes", f"index {name}", encode(body))
        return await self._transport.call(workspace, request, lambda answer: read(described(answer, name)))

    async def delete_index(self, workspace: str, index: str) -> None:
        """Remove an index."""
        await self._index(workspace, "DELETE", index, _as_it_is)

    async def list_indexes(self, workspace: str, endpoint: str, read: Callable[[Json], _Answer]) -> list[_Answer]:
        """Return what `read` makes of what an endpoint serves; the rows have no state."""
        path = f"{_API}/indexes?endpoint_name={quote(endpoint, safe='')}"
        return await self._listed(workspace, path, "vector_indexes", f"endpoint {endpoint}", read)

    async def create_endpoint(
        self,
        workspace: str,
        name: str,
        endpoint_type: str,
        target_qps: int | None,
        read: Callable[[Json], _Answer],
    ) -> _Answer:
        """Make an endpoint, and return what `read` makes of its description."""
        body: Json = {"name": name, "endpoint_type": endpoint_type}
        if target_qps is not None:
            body["target_qps"] = target_qps
        request = Request("POST", f"{_API}/endpoints", f"endpoint {name}", encode(body))
        return await self._transport.call(workspace, request, lambda answer: read(described(answer, name)))

    async def get_endpoint(self, workspace: str, name: str, read: Callable[[Json], _Answer]) -> _Answer:
        """Return what `read` makes of the description of an endpoint."""
        return await self._endpoint(workspace, "GET", name, lambda answer: read(described(answer, name)))

    async def list_endpoints(self, workspace: str, read: Callable[[Json], _Answer]) -> list[_Answer]:
        """Return what `read` makes of the endpoints that the credential can see."""
        return await self._listed(workspace, f"{_API}/endpoints", "endpoints", "endpoints", read)

    async def delete_endpoint(self, workspace: str, name: str) -> None:
        """Remove an endpoint."""
        await self._endpoint(workspace, "DELETE", name, _as_it_is)

    async def _listed(
        self, workspace: str, path: str, name: str, subject: str, read: Callable[[Json], _Answer]
    ) -> list[_Answer]:
        found: list[_Answer] = []
        token, passed = "", {""}

        def read_page(answer: Json) -> tuple[list[_Answer], str]:
            rows, following = listed(answer, name)
            return [read(row) for row in rows], following

        while True:
            separator = "&" if "?" in path else "?"
            page = path + (f"{separator}page_token={quote(token, safe='')}" if token else "")
            request = Request("GET", page, subject)
            rows, following = await self._transport.call(workspace, request, read_page)
            found.extend(rows)
            if not following:
                return found
            if following in passed or len(passed) > _MAX_LIST_PAGES:
                # A list without end is none.
                raise bad_answer(required_origin(workspace))
            passed.add(following)
            token = following

    async def _index(
        self, workspace: str, method: str, index: str, read: Callable[[Json], _Answer], body: bytes | None = None
    ) -> _Answer:
        request = Request(method, f"{_API}/indexes/{quote(index, safe='')}", f"index {index}", body)
        return await self._transport.call(workspace, request, read)

    async def _endpoint(
        self, workspace: str, method: str, name: str, read: Callable[[Json], _Answer], body: bytes | None = None
    ) -> _Answer:
        request = Request(method, f"{_API}/endpoints/{quote(name, safe='')}", f"endpoint {name}", body)
        return await self._transport.call(workspace, request, read)

    async def _data(
        self, workspace: str, method: str, index: str, action: str, body: bytes, read: Callable[[Json], _Answer]
    ) -> _Answer:
        # Never below /endpoints/{name}/indexes: that path wants scopes that users' tokens do not have.
        request = Request(method, f"{_API}/indexes/{quote(index, safe='')}/{action}", f"index {index}", body)
        return await self._transport.call(workspace, request, read)


def _as_it_is(answer: Json) -> Json:
    return answer
