"""The wire of Databricks Vector Search: paths, retries, batches, pages."""

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog

from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.egress import required_origin
from services.common.errors import CoxswainError, DeadlineExceeded
from services.common.grpc.call import current_call
from services.common.http import EgressClient, read_limited
from services.common.identity.credentials import CredentialSource
from services.memory.domain.vectors import Vector
from services.memory.stores.databricks.upstream_errors import (
    CredentialRejected,
    bad_answer,
    credential_rejected,
    from_response,
    no_answer,
)

logger = structlog.get_logger(__name__)

_API = "/api/2.0/vector-search"
_RETRIED = frozenset({429, 503, 504})
_BACKOFF = Backoff(0.2, 10.0)
_LARGE_ANSWER = 256 * 1024
"""Bytes from which an answer is parsed off the event loop."""
_LONGEST_ADVICE = 86_400.0
"""Seconds of `Retry-After` that are believed, at most."""
_MAX_LIST_PAGES = 1000
_WRITTEN = ("SUCCESS", "PARTIAL_SUCCESS", "FAILURE")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How much and how long; see `MemorySettings`."""

    attempts: int
    attempt_seconds: float
    call_seconds: float
    upsert_rows: int
    upsert_bytes: int
    delete_keys: int
    scan_rows: int
    response_bytes: int


@dataclass(frozen=True, slots=True)
class WireRow:
    """A row as it is written: its primary key and its JSON text."""

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class QueryPage:
    """Rows of a query by column name, the score under `SCORE`, and the token of the next page."""

    rows: list[Json]
    next_page_token: str


SCORE = "score"


class VectorSearchClient:
    """Calls one workspace after another, each with the calling principal's own credential."""

    def __init__(
        self,
        http: EgressClient,
        credentials: CredentialSource,
        limits: ClientLimits,
        *,
        trusted_origins: frozenset[str] = frozenset(),
    ) -> None:
        """`trusted_origins` are the operator's own workspaces: their addresses are not checked."""
        self._http = http
        self._credentials = credentials
        self._trusted_origins = trusted_origins
        self.limits = limits

    async def upsert(self, workspace: str, index: str, rows: Sequence[WireRow]) -> list[str]:
        """Write rows in batches and return the keys that were not written."""
        failed: list[str] = []
        for batch in await asyncio.to_thread(_encode_batches, rows, self.limits.upsert_rows, self.limits.upsert_bytes):
            answer = await self._data(workspace, "POST", index, "upsert-data", batch.body)
            failed.extend(_unwritten(answer, batch.keys, required_origin(workspace)))
        return failed

    async def delete(self, workspace: str, index: str, keys: Sequence[str]) -> tuple[int, list[str]]:
        """Remove rows in batches; return how many removals were accepted and the keys that were not."""
        accepted, failed = 0, list[str]()
        for start in range(0, len(keys), self.limits.delete_keys):
            batch = list(keys[start : start + self.limits.delete_keys])
            answer = await self._data(workspace, "DELETE", index, "delete-data", _encode({"primary_keys": batch}))
            refused = _failed_keys(answer, batch, required_origin(workspace))
            failed.extend(refused)
            accepted += len(batch) - len(refused)
        return accepted, failed

    async def query(self, workspace: str, index: str, body: Json, vector: str) -> QueryPage:
        """Return the first page of a query; `vector` is JSON text."""
        encoded = b'%s,"query_vector":%s}' % (_encode(body)[:-1], vector.encode())
        answer = await self._data(workspace, "POST", index, "query", encoded)
        return _query_page(answer, required_origin(workspace))

    async def next_page(self, workspace: str, index: str, endpoint: str, token: str) -> QueryPage:
        """Return the page that a page's token leads to."""
        body = _encode({"page_token": token, "endpoint_name": endpoint})
        answer = await self._data(workspace, "POST", index, "query-next-page", body)
        return _query_page(answer, required_origin(workspace))

    async def scan(self, workspace: str, index: str) -> AsyncIterator[list[Json]]:
        """Yield all rows, vectors included, in the order of their keys, page by page."""
        last = ""
        while True:
            body: Json = {"num_results": self.limits.scan_rows}
            if last:
                body["last_primary_key"] = last
            answer = await self._data(workspace, "POST", index, "scan", _encode(body))
            rows = await asyncio.to_thread(_scan_rows, answer, required_origin(workspace))
            if rows:
                yield rows
            following = str(answer.get("last_primary_key") or "")
            if not rows or not following or following == last:
                return
            last = following

    async def get_index(self, workspace: str, index: str) -> Json:
        """Return the description of an index."""
        return await self._call(workspace, "GET", f"{_API}/indexes/{quote(index, safe='')}", f"index {index}")

    async def create_index(self, workspace: str, body: Json) -> Json:
        """Make an index."""
        return await self._call(workspace, "POST", f"{_API}/indexes", f"index {body['name']}", _encode(body))

    async def delete_index(self, workspace: str, index: str) -> None:
        """Remove an index."""
        await self._call(workspace, "DELETE", f"{_API}/indexes/{quote(index, safe='')}", f"index {index}")

    async def list_indexes(self, workspace: str, endpoint: str) -> list[Json]:
        """Return what an endpoint serves; the rows have no state."""
        path = f"{_API}/indexes?endpoint_name={quote(endpoint, safe='')}"
        return await self._listed(workspace, path, "vector_indexes", f"endpoint {endpoint}")

    async def create_endpoint(self, workspace: str, name: str, endpoint_type: str) -> Json:
        """Make an endpoint."""
        body = _encode({"name": name, "endpoint_type": endpoint_type})
        return await self._call(workspace, "POST", f"{_API}/endpoints", f"endpoint {name}", body)

    async def get_endpoint(self, workspace: str, name: str) -> Json:
        """Return the description of an endpoint."""
        return await self._call(workspace, "GET", f"{_API}/endpoints/{quote(name, safe='')}", f"endpoint {name}")

    async def list_endpoints(self, workspace: str) -> list[Json]:
        """Return the endpoints that the credential can see."""
        return await self._listed(workspace, f"{_API}/endpoints", "endpoints", "endpoints")

    async def delete_endpoint(self, workspace: str, name: str) -> None:
        """Remove an endpoint."""
        await self._call(workspace, "DELETE", f"{_API}/endpoints/{quote(name, safe='')}", f"endpoint {name}")

    async def _listed(self, workspace: str, path: str, name: str, subject: str) -> list[Json]:
        found: list[Json] = []
        token = ""
        for _ in range(_MAX_LIST_PAGES):
            separator = "&" if "?" in path else "?"
            page = path + (f"{separator}page_token={quote(token, safe='')}" if token else "")
            answer = await self._call(workspace, "GET", page, subject)
            rows = answer.get(name) or []
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise bad_answer(required_origin(workspace))
            found.extend(rows)
            following = str(answer.get("next_page_token") or "")
            if not following or following == token:
                return found
            token = following
        raise bad_answer(required_origin(workspace))

    async def _data(self, workspace: str, method: str, index: str, action: str, body: bytes) -> Json:
        # Never below /endpoints/{name}/indexes: that path wants scopes that users' tokens do not have.
        path = f"{_API}/indexes/{quote(index, safe='')}/{action}"
        return await self._call(workspace, method, path, f"index {index}", body)

    async def _call(self, workspace: str, method: str, path: str, subject: str, body: bytes | None = None) -> Json:
        """Call until it succeeds, fails for good, or neither time nor attempts are left.

        Every request can be repeated: rows are written and removed by their keys.
        """
        origin = required_origin(workspace)
        deadline = self._deadline()
        credential = await self._credentials.resolve(origin)
        attempt = 0
        while True:
            attempt += 1
            failure, wait = await self._attempt(origin, method, path, subject, body, credential.token, deadline)
            if isinstance(failure, dict):
                return failure
            if isinstance(failure, CredentialRejected):
                self._credentials.forget(origin)
                if not credential.from_cache or attempt > self.limits.attempts:
                    raise credential_rejected(origin, on_behalf_of_user=credential.on_behalf_of_user)
                credential = await self._credentials.resolve(origin)
                continue
            if wait is None:
                raise failure
            wait = _BACKOFF.pause(attempt, at_least=wait)
            if attempt >= self.limits.attempts or time.monotonic() + wait >= deadline:
                raise failure
            logger.info("vector_search_retry", path=path, attempt=attempt, reason=failure.reason)
            await asyncio.sleep(wait)

    def _deadline(self) -> float:
        remaining = current_call().time_remaining()
        allowed = self.limits.call_seconds if remaining is None else min(remaining, self.limits.call_seconds)
        return time.monotonic() + allowed

    async def _attempt(
        self, origin: str, method: str, path: str, subject: str, body: bytes | None, token: str, deadline: float
    ) -> tuple[Json | CoxswainError, float | None]:
        """Return the answer, or the failure and the least seconds to wait before trying again (None: do not)."""
        timeout = min(self.limits.attempt_seconds, deadline - time.monotonic())
        if timeout <= 0:
            raise DeadlineExceeded(f"no time was left to ask {origin}", reason="STORE_FAILED")
        headers = {"Authorization": f"Bearer {token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        trusted = origin in self._trusted_origins
        try:
            response = await self._http.request(
                method, origin + path, trusted=trusted, data=body, headers=headers, total_timeout=timeout
            )
            async with response:
                data = await read_limited(response, self.limits.response_bytes)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return no_answer(origin), 0.0
        if data is None:
            raise bad_answer(origin)
        answer = await _parse(data)
        if response.status < 300:
            return (bad_answer(origin) if answer is None else answer), None
        failure = from_response(response.status, answer, subject, origin, token)
        if response.status not in _RETRIED:
            return failure, None
        wait = _retry_after(response.headers.get("Retry-After", ""))
        failure.retry_after = max(wait, failure.retry_after or 0.0)
        return failure, wait


async def _parse(data: bytes) -> Json | None:
    return await asyncio.to_thread(_document, data) if len(data) > _LARGE_ANSWER else _document(data)


def _document(data: bytes) -> Json | None:
    try:
        document = json.loads(data)
        return _snake_case(document) if isinstance(document, dict) else None
    except (ValueError, RecursionError):
        return None


def _encode(body: Json) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class _Batch:
    keys: list[str]
    body: bytes


def encode_vector(vector: Vector) -> str:
    """Return a vector as JSON text: nine digits bring every float32 back exactly, and take a sixth of the time."""
    return _vector_form(len(vector)) % tuple(vector.tolist())


@functools.lru_cache(maxsize=64)
def _vector_form(dimension: int) -> str:
    return f"[{','.join(['%.9g'] * dimension)}]"


def _encode_batches(rows: Sequence[WireRow], max_rows: int, max_bytes: int) -> list[_Batch]:
    batches: list[_Batch] = []
    waiting: list[WireRow] = []
    size = 0

    def close() -> None:
        if waiting:
            inputs = f"[{','.join(row.text for row in waiting)}]"
            batches.append(_Batch([row.key for row in waiting], _encode({"inputs_json": inputs})))
            waiting.clear()

    for row in rows:
        # As part of a JSON string the row grows by its quotes and backslashes.
        cost = len(row.text) + row.text.count('"') + row.text.count("\\") + 1
        if waiting and (len(waiting) == max_rows or size + cost > max_bytes):
            close()
            size = 0
        waiting.append(row)
        size += cost
    close()
    return batches


def _unwritten(answer: Mapping[str, Any], keys: Sequence[str], origin: str) -> list[str]:
    """Return the keys of rows that cannot be counted on: all, where fewer are named than were not written."""
    failed = _failed_keys(answer, keys, origin)
    written = (answer.get("result") or {}).get("success_row_count")
    try:
        # Numbers of 64 bits come as text from some front ends.
        missing = 0 if written is None else len(keys) - int(written)
    except (TypeError, ValueError, OverflowError):
        raise bad_answer(origin) from None
    return failed if missing <= len(failed) else list(keys)


def _failed_keys(answer: Mapping[str, Any], keys: Sequence[str], origin: str) -> list[str]:
    status, result = answer.get("status"), answer.get("result") or {}
    named = result.get("failed_primary_keys") or [] if isinstance(result, dict) else None
    # Without the word for it nothing may be taken as done.
    if status not in _WRITTEN or not isinstance(named, list):
        raise bad_answer(origin)
    # When the answer does not say which ones failed, none can be relied on.
    return list(keys) if status != "SUCCESS" and not named else [str(key) for key in named]


def _query_page(answer: Mapping[str, Any], origin: str) -> QueryPage:
    try:
        columns = (answer.get("manifest") or {}).get("columns") or []
        values = (answer.get("result") or {}).get("data_array") or []
        names = [column["name"] for column in columns]
        # The score is one extra value at the end, which not every front end names in the manifest.
        if len(set(map(len, values)) - {len(names), len(names) + 1}):
            raise bad_answer(origin)
        named = [*names, SCORE]
        rows = [dict(zip(named, row, strict=False)) for row in values]
    except (AttributeError, KeyError, TypeError):
        raise bad_answer(origin) from None
    return QueryPage(rows, str(answer.get("next_page_token") or ""))


def _scan_rows(answer: Mapping[str, Any], origin: str) -> list[Json]:
    try:
        return [
            {str(field["key"]): _plain(field.get("value") or {}) for field in row.get("fields") or []}
            for row in answer.get("data") or []
        ]
    except (AttributeError, KeyError, TypeError):
        raise bad_answer(origin) from None


def _plain(value: Mapping[str, Any]) -> Any:
    """Read a value in the encoding of protobuf's Struct."""
    for kind in ("string_value", "number_value", "bool_value"):
        if kind in value:
            return value[kind]
    if "list_value" in value:
        return [_plain(item) for item in value["list_value"].get("values") or []]
    return None


def _snake_case(value: Any) -> Any:
    """Return the document with keys in snake case, as some front ends answer in camel case. Rows are left alone."""
    if isinstance(value, dict):
        return {
            _snake_name(name): item if name in ("data_array", "dataArray") else _snake_case(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_snake_case(item) for item in value]
    return value


def _snake_name(name: str) -> str:
    if name.islower():
        return name
    return "".join(f"_{character.lower()}" if character.isupper() else character for character in name)


def _retry_after(value: str) -> float:
    """Read seconds or a date; 0 when there is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), _LONGEST_ADVICE)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return 0.0
    # A date without a zone ("-0000") is in UTC.
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - utc_now()
    return min(max(0.0, seconds.total_seconds()), _LONGEST_ADVICE)
