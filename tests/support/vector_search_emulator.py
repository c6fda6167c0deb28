"""Databricks Vector Search on loopback, in the dialects of both official clients.

    with VectorSearchEmulator() as vectors:
        vectors.behaviour.visible_after = 2
        vectors.fail(ApiFault(path="/upsert-data", status=429, retry_after="1"))

Where the service's behaviour is not documented, the emulator takes the answer that is harder on a client: writes to an
index that is not online are refused, pages of a scan are cut to a bound, unknown columns are errors. What it does not
model (embedding by the service of rows it syncs, facets, sorting) it refuses with 501 rather than ignore.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tests.support.databricks_http import (
    Authenticate,
    Caller,
    DatabricksEmulator,
    DatabricksError,
    Exchange,
    JsonObject,
    bearer_token,
    invalid,
    json_body,
    read_json,
)
from tests.support.http_emulator import serve_until_cancelled
from tests.support.text_vectors import embed_text
from tests.support.vector_search_filters import Condition, FilterError, read_dict_filter, read_string_filter
from tests.support.vector_search_table import (
    FLOAT32_MAX,
    SCORES,
    Hit,
    Key,
    Row,
    VectorTable,
    element_type,
    is_known_type,
)

API = "/api/2.0/vector-search"
KEPT_PAGES = 256

INDEX_SCOPES = ("vector-search", "vectorsearch.vector-search-indexes")
SERVING_SCOPES = ("model-serving", "serving.serving-endpoints")
ENDPOINT_SCOPES = ("vector-search", "vectorsearch.vector-search-endpoints")
NESTED_SCOPES: tuple[str, ...] = ()
"""The path of an index below its endpoint wants more than tokens on behalf of users carry: all-apis."""

EndpointState = Literal["PROVISIONING", "ONLINE", "OFFLINE", "STARTING", "STOPPING", "STOPPED", "RED_STATE", "DELETED"]

_INDEX_NAME = re.compile(r"\w+\.\w+\.\w+")
_UNMODELLED = ("facets", "sort_columns", "columns_to_rerank")
_RERANKED = 50
"""Results that the reranking model is given."""


class Behaviour(BaseModel):
    """What may be changed while the emulator runs (over HTTP: `POST /_ctl` with some of these fields)."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    endpoint_polls: int = Field(default=0, ge=0)
    """Times an endpoint is read in a passing state before it arrives."""
    index_polls: int = Field(default=0, ge=0)
    """Times a new index is read as PROVISIONING before it is online."""
    name_reserved_for: int = Field(default=0, ge=0)
    """Creates that are refused after an index of that name was deleted, though reads say 404 at once."""
    visible_after: int = Field(default=0, ge=0)
    """Reads of an index (query, scan, describe) that do not see a write yet."""
    camel_case: bool = False
    """Answer data requests in camelCase, as the direct data plane does."""
    bare_index_url: bool = False
    """Give `index_url` without its scheme, as the service does."""
    max_request_bytes: int = Field(default=10 * 1024 * 1024, ge=1)
    max_upsert_rows: int | None = Field(default=None, ge=1)
    max_delete_keys: int | None = Field(default=None, ge=1)
    max_indexes: int = Field(default=50, ge=0)
    """Per endpoint."""
    page_rows: int = Field(default=1000, ge=1)
    max_results: int = Field(default=10_000, ge=1)
    max_text_results: int = Field(default=200, ge=1)
    """Of hybrid and full-text queries."""
    max_scan_rows: int = Field(default=1000, ge=1)
    list_rows: int = Field(default=100, ge=1)
    """Endpoints or indexes in one page of a list."""
    score: Literal["SQUARED_DISTANCE", "DISTANCE", "COSINE", "SHIFTED_COSINE", "NEGATIVE_DISTANCE"] = "SQUARED_DISTANCE"
    """How scores of vector queries are computed."""
    ignores_threshold: bool = False
    """Pay no heed to `score_threshold`."""
    rejected_keys: dict[str, int] = Field(default_factory=dict)
    """Primary keys whose writes fail, and how many times more; negative: always."""


@dataclass(slots=True)
class Endpoint:
    name: str
    endpoint_type: Literal["STANDARD", "STORAGE_OPTIMIZED"]
    creator: str
    created_ms: int
    state: EndpointState
    arriving: EndpointState | None
    polls_left: int
    target_qps: int | None = None
    message: str = ""


@dataclass(slots=True)
class Write:
    reads_left: int
    apply: Callable[[], None]


@dataclass(slots=True)
class Index:
    name: str
    endpoint: Endpoint
    creator: str
    spec: JsonObject
    table: VectorTable
    model: str | None
    detailed_state: str
    polls_left: int
    message: str = ""
    source: VectorTable | None = None
    """The table that a delta-sync index follows."""
    pending: list[Write] = field(default_factory=list)
    readers: frozenset[str] | None = None
    writers: frozenset[str] | None = None

    @property
    def online(self) -> bool:
        return "ONLINE" in self.detailed_state and self.endpoint.state == "ONLINE"

    @property
    def index_type(self) -> str:
        return "DIRECT_ACCESS" if self.source is None else "DELTA_SYNC"

    def sync(self) -> None:
        """Bring a delta-sync index to the state of its table."""
        if self.source is None:
            return
        table = self.table
        for place in table.scan(None, len(table)):
            table.remove(table.cells(place, [table.primary_key])[0])
        for place in self.source.scan(None, len(self.source)):
            cells = self.source.cells(place, self.source.schema)
            row = dict(zip(self.source.schema, cells, strict=True))
            table.put({name: row[name] for name in table.schema})

    def settle(self) -> None:
        """Count one read, and let the writes appear that have been waited for."""
        waiting = []
        for write in self.pending:
            if write.reads_left:
                write.reads_left -= 1
                waiting.append(write)
            else:
                write.apply()
        self.pending = waiting


@dataclass(frozen=True, slots=True)
class Page:
    """What a page token stands for."""

    index: str
    caller: str
    manifest: JsonObject
    rows: list[list[Any]]


class VectorSearchEmulator(DatabricksEmulator):
    """The emulator. `tokens`: bearer tokens that are let in and whom they stand for (None: every token may do all);
    `authenticate` replaces that check. `behaviour` says what goes slowly or wrong.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Mapping[str, Caller] | None = None,
        authenticate: Authenticate | None = None,
        behaviour: Behaviour | None = None,
        record: bool = True,
        control_prefix: str = "",
    ) -> None:
        super().__init__(host=host, port=port, control_prefix=control_prefix, record=record)
        self.tokens = None if tokens is None else dict(tokens)
        self.behaviour = behaviour or Behaviour()
        self._authenticate = authenticate or self._by_token
        self._endpoints: dict[str, Endpoint] = {}
        self._indexes: dict[str, Index] = {}
        self._reserved: dict[str, int] = {}
        self._pages: OrderedDict[str, Page] = OrderedDict()
        self._source_tables: dict[str, VectorTable] = {}

    # For tests

    def add_table(
        self, name: str, schema: Mapping[str, str], dimension: int, rows: Iterable[Row] = (), *, primary_key: str = "id"
    ) -> None:
        """A table that delta-sync indexes can follow, with the vector column `embedding`; rows replace those there."""
        table = self._source_tables.setdefault(name, VectorTable(dict(schema), primary_key, "embedding", dimension))
        for row in rows:
            complaint = table.complaint(row)
            if complaint:
                raise ValueError(complaint)
            table.put(row)

    def add_endpoint(
        self, name: str, endpoint_type: Literal["STANDARD", "STORAGE_OPTIMIZED"] = "STANDARD", *, creator: str = "admin"
    ) -> None:
        """An endpoint that is online at once."""
        self._endpoints[name] = Endpoint(
            name, endpoint_type, creator, _now_ms(), state="ONLINE", arriving=None, polls_left=0
        )

    def add_index(self, name: str, endpoint: str, schema: Mapping[str, str], dimension: int, **spec: Any) -> None:
        """A direct-access index that is online at once, with primary key `id` and vector column `embedding`."""
        direct = {
            "embedding_vector_columns": [{"name": "embedding", "embedding_dimension": dimension}],
            "schema_json": json.dumps(dict(schema)),
        } | spec
        body = {
            "name": name,
            "index_type": "DIRECT_ACCESS",
            "primary_key": "id",
            "endpoint_name": endpoint,
            "direct_access_index_spec": direct,
        }
        index = self._new_index(body, creator="admin")
        index.polls_left = 0
        self._advance_index(index)

    def set_endpoint_state(self, name: str, state: EndpointState, message: str = "") -> None:
        endpoint = self._endpoints[name]
        endpoint.state, endpoint.arriving, endpoint.message = state, None, message

    def set_index_state(self, name: str, detailed_state: str, message: str = "") -> None:
        index = self._indexes[name]
        index.detailed_state, index.message, index.polls_left = detailed_state, message, 0

    def restrict(self, index: str, *, readers: Iterable[str], writers: Iterable[str] = ()) -> None:
        """Only these users may read or write the index from now on (writers may read)."""
        self._indexes[index].writers = frozenset(writers)
        self._indexes[index].readers = frozenset(readers) | frozenset(writers)

    def rows(self, index: str) -> list[Row]:
        """Every row of the index in the order of keys, vectors included, whether visible to reads yet or not."""
        held = self._indexes[index]
        for write in held.pending:
            write.apply()
        held.pending = []
        table = held.table
        return [
            dict(zip(table.schema, table.cells(place, table.schema), strict=True))
            for place in table.scan(None, len(table))
        ]

    def index_names(self) -> list[str]:
        return sorted(self._indexes)

    # Routes

    def install(self, app: web.Application) -> None:
        endpoint, nested = f"{API}/endpoints/{{endpoint}}", f"{API}/endpoints/{{endpoint}}/indexes"
        index = f"{API}/indexes/{{index}}"
        app.add_routes(
            [
                self.api("POST", f"{API}/endpoints", self._create_endpoint),
                self.api("GET", f"{API}/endpoints", self._list_endpoints),
                self.api("GET", endpoint, self._get_endpoint),
                self.api("PATCH", endpoint, self._patch_endpoint),
                self.api("DELETE", endpoint, self._delete_endpoint),
                self.api("POST", f"{endpoint}/stop", self._stop_endpoint),
                self.api("POST", f"{endpoint}/start", self._start_endpoint),
                self.api("POST", nested, self._create_index),
                self.api("GET", nested, self._list_indexes),
                self.api("GET", f"{nested}/{{index}}", self._get_index),
                self.api("DELETE", f"{nested}/{{index}}", self._delete_index),
                self.api("POST", f"{API}/indexes", self._create_index),
                self.api("GET", f"{API}/indexes", self._list_indexes),
                self.api("GET", index, self._get_index),
                self.api("DELETE", index, self._delete_index),
                self.api("POST", f"{index}/sync", self._sync),
                self.api("POST", f"{index}/upsert-data", self._upsert),
                self.api("DELETE", f"{index}/delete-data", self._delete_data),
                *(
                    self.api(method, f"{index}/{action}", handler)
                    for method in ("GET", "POST")
                    for action, handler in (
                        ("query", self._query),
                        ("query-next-page", self._next_page),
                        ("scan", self._scan),
                    )
                ),
                self.api("GET", "/api/2.0/serving-endpoints/{name}", self._get_serving_endpoint),
                web.post(f"{self._control_prefix}/_ctl", self._control),
                *self.control_routes(),
            ]
        )

    async def _control(self, request: web.Request) -> web.Response:
        try:
            changes = json.loads(await request.read())
            self.behaviour = Behaviour.model_validate(self.behaviour.model_dump() | changes)
        except (ValidationError, ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(self.behaviour.model_dump())

    # Who may do what

    def check_request(self, exchange: Exchange) -> None:
        caller = self._authenticate(exchange.headers)
        exchange.caller = caller.user_name
        if exchange.body_bytes > self.behaviour.max_request_bytes:
            raise DatabricksError(
                413,
                "REQUEST_SIZE_EXCEEDED",
                f"Request of {exchange.body_bytes} bytes exceeds {self.behaviour.max_request_bytes}",
            )
        needed = _needed_scopes(exchange.path)
        if not caller.may(*needed):
            raise DatabricksError(
                403, "PERMISSION_DENIED", f"Invalid scope: the token has none of {', '.join(('all-apis', *needed))}"
            )

    def _by_token(self, headers: Mapping[str, str]) -> Caller:
        token = bearer_token(headers)
        if self.tokens is None:
            return Caller("anyone")
        if token not in self.tokens:
            raise DatabricksError(403, 403, "Invalid access token.")
        return self.tokens[token]

    # Endpoints

    def _create_endpoint(self, exchange: Exchange, _: web.Request) -> JsonObject:
        body = json_body(exchange)
        name, kind = body.get("name"), body.get("endpoint_type", "STANDARD")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise invalid("Endpoint name must be 1 to 64 letters, digits, hyphens or underscores")
        if kind not in ("STANDARD", "STORAGE_OPTIMIZED"):
            raise invalid(f"Unknown endpoint_type {kind!r}")
        if name in self._endpoints:
            raise DatabricksError(409, "RESOURCE_ALREADY_EXISTS", f"Vector search endpoint {name} already exists")
        endpoint = Endpoint(
            name,
            kind,
            exchange.caller or "",
            _now_ms(),
            state="PROVISIONING",
            arriving="ONLINE",
            polls_left=self.behaviour.endpoint_polls,
            target_qps=_target_qps(body, kind),
        )
        self._endpoints[name] = endpoint
        return self._endpoint_info(endpoint)

    def _get_endpoint(self, _: Exchange, request: web.Request) -> JsonObject:
        endpoint = self._endpoint(request.match_info["endpoint"])
        self._advance_endpoint(endpoint)
        return self._endpoint_info(endpoint)

    def _list_endpoints(self, _: Exchange, request: web.Request) -> JsonObject:
        rows = [self._endpoint_info(self._endpoints[name]) for name in sorted(self._endpoints)]
        return self._list_page("endpoints", rows, request)

    def _patch_endpoint(self, exchange: Exchange, request: web.Request) -> JsonObject:
        endpoint = self._endpoint(request.match_info["endpoint"])
        body = json_body(exchange)
        if "target_qps" in body:
            endpoint.target_qps = _target_qps(body, endpoint.endpoint_type)
        return {"endpoint": self._endpoint_info(endpoint)}

    def _delete_endpoint(self, _: Exchange, request: web.Request) -> JsonObject:
        endpoint = self._endpoint(request.match_info["endpoint"])
        if any(index.endpoint is endpoint for index in self._indexes.values()):
            raise DatabricksError(400, "INVALID_STATE", f"Vector search endpoint {endpoint.name} still has indexes")
        del self._endpoints[endpoint.name]
        return {}

    def _stop_endpoint(self, _: Exchange, request: web.Request) -> JsonObject:
        return self._travel(request, "STOPPING", "STOPPED")

    def _start_endpoint(self, _: Exchange, request: web.Request) -> JsonObject:
        return self._travel(request, "STARTING", "ONLINE")

    def _travel(self, request: web.Request, passing: EndpointState, arriving: EndpointState) -> JsonObject:
        endpoint = self._endpoint(request.match_info["endpoint"])
        endpoint.state, endpoint.arriving, endpoint.polls_left = passing, arriving, self.behaviour.endpoint_polls
        return self._endpoint_info(endpoint)

    def _endpoint(self, name: str) -> Endpoint:
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise DatabricksError(404, "RESOURCE_DOES_NOT_EXIST", f"Vector search endpoint {name} not found")
        return endpoint

    def _advance_endpoint(self, endpoint: Endpoint) -> None:
        if endpoint.arriving is None:
            return
        if endpoint.polls_left:
            endpoint.polls_left -= 1
        else:
            endpoint.state, endpoint.arriving = endpoint.arriving, None

    def _endpoint_info(self, endpoint: Endpoint) -> JsonObject:
        return {
            "name": endpoint.name,
            "id": f"endpoint-{endpoint.name}",
            "endpoint_type": endpoint.endpoint_type,
            "creator": endpoint.creator,
            "creation_timestamp": endpoint.created_ms,
            "last_updated_timestamp": endpoint.created_ms,
            "num_indexes": sum(index.endpoint is endpoint for index in self._indexes.values()),
            "endpoint_status": {"state": endpoint.state, "message": endpoint.message},
        } | ({} if endpoint.target_qps is None else {"scaling_info": {"requested_target_qps": endpoint.target_qps}})

    # Indexes

    def _create_index(self, exchange: Exchange, request: web.Request) -> JsonObject:
        body = json_body(exchange)
        if "endpoint" in request.match_info:
            body = body | {"endpoint_name": request.match_info["endpoint"]}
        return self._index_info(self._new_index(body, creator=exchange.caller or ""))

    def _new_index(self, body: JsonObject, *, creator: str) -> Index:
        name = body.get("name")
        if not isinstance(name, str) or not _INDEX_NAME.fullmatch(name) or len(name) > 255:
            raise invalid(
                "Invalid index name. Must specify the full index name <catalog>.<schema>.<table>. "
                "Only alphanumerics and underscores are allowed."
            )
        if body.get("index_type") not in ("DIRECT_ACCESS", "DELTA_SYNC"):
            raise invalid("index_type must be DIRECT_ACCESS or DELTA_SYNC")
        endpoint = self._endpoint(str(body.get("endpoint_name")))
        self._advance_endpoint(endpoint)
        if endpoint.state != "ONLINE":
            raise DatabricksError(400, "INVALID_STATE", f"Vector search endpoint {endpoint.name} is {endpoint.state}")
        self._check_name_free(name)
        count = sum(index.endpoint is endpoint for index in self._indexes.values())
        if count >= self.behaviour.max_indexes:
            raise DatabricksError(
                400,
                "QUOTA_EXCEEDED",
                f"Maximum number of indexes per endpoint exceeded for vector search endpoint {endpoint.name}. "
                f"Current number of indexes {count} must be less than {self.behaviour.max_indexes}.",
            )
        follows = body["index_type"] == "DELTA_SYNC"
        kind = "delta_sync_index_spec" if follows else "direct_access_index_spec"
        spec = body.get(kind)
        if not isinstance(spec, dict):
            raise invalid(f"{kind} is required for {body['index_type']}")
        source = self._source_table(spec) if follows else None
        described = spec if source is None else spec | {"schema_json": json.dumps(_synced(source, spec))}
        index = Index(
            name=name,
            endpoint=endpoint,
            creator=creator,
            spec=spec,
            table=_table(described, body.get("primary_key")),
            model=_embedding_model(spec),
            detailed_state="PROVISIONING",
            polls_left=self.behaviour.index_polls,
            source=source,
        )
        index.sync()
        self._indexes[name] = index
        return index

    def _source_table(self, spec: JsonObject) -> VectorTable:
        if spec.get("pipeline_type") not in ("TRIGGERED", "CONTINUOUS"):
            raise invalid("pipeline_type must be TRIGGERED or CONTINUOUS")
        if spec.get("embedding_source_columns"):
            raise DatabricksError(501, "NOT_IMPLEMENTED", "This emulator does not embed the rows that it syncs")
        name = str(spec.get("source_table"))
        if name not in self._source_tables:
            raise DatabricksError(404, "RESOURCE_DOES_NOT_EXIST", f"Table {name} does not exist")
        return self._source_tables[name]

    def _check_name_free(self, name: str) -> None:
        if name in self._indexes:
            raise DatabricksError(409, "RESOURCE_ALREADY_EXISTS", f"Vector index {name} already exists")
        if self._reserved.get(name, 0) > 0:
            self._reserved[name] -= 1
            raise DatabricksError(400, "BAD_REQUEST", f"Index {name} is currently pending deletion")

    def _get_index(self, exchange: Exchange, request: web.Request) -> JsonObject:
        index = self._index(exchange, request, write=False)
        self._advance_index(index)
        index.settle()
        return self._index_info(index)

    def _list_indexes(self, _: Exchange, request: web.Request) -> JsonObject:
        endpoint = self._endpoint(request.match_info.get("endpoint") or request.query.get("endpoint_name", ""))
        rows = [
            {
                "name": index.name,
                "endpoint_name": endpoint.name,
                "creator": index.creator,
                "index_type": index.index_type,
                "primary_key": index.table.primary_key,
            }
            for index in sorted(self._indexes.values(), key=lambda index: index.name)
            if index.endpoint is endpoint
        ]
        return self._list_page("vector_indexes", rows, request)

    def _list_page(self, name: str, rows: list[JsonObject], request: web.Request) -> JsonObject:
        token = request.query.get("page_token") or "0"
        if not token.isdecimal():
            raise invalid("Invalid page_token")
        start, end = int(token), int(token) + self.behaviour.list_rows
        body: JsonObject = {name: rows[start:end]}
        return body | ({"next_page_token": str(end)} if end < len(rows) else {})

    def _delete_index(self, exchange: Exchange, request: web.Request) -> JsonObject:
        index = self._index(exchange, request, write=True)
        del self._indexes[index.name]
        self._reserved[index.name] = self.behaviour.name_reserved_for
        return {}

    def _sync(self, exchange: Exchange, request: web.Request) -> JsonObject:
        index = self._index(exchange, request, write=True)
        if index.source is None:
            raise invalid(f"Index {index.name} is a direct-access index: there is nothing to sync")
        index.sync()
        return {}

    def _index(self, exchange: Exchange, request: web.Request, *, write: bool) -> Index:
        name = request.match_info["index"]
        index = self._indexes.get(name)
        endpoint = request.match_info.get("endpoint")
        if index is None or (endpoint is not None and index.endpoint.name != endpoint):
            raise DatabricksError(404, "RESOURCE_DOES_NOT_EXIST", f"Vector index {name} not found")
        allowed = index.writers if write else index.readers
        if allowed is not None and exchange.caller not in allowed:
            privilege = "MODIFY" if write else "SELECT"
            raise DatabricksError(403, "PERMISSION_DENIED", f"User does not have {privilege} on Table '{name}'.")
        return index

    def _usable_index(self, exchange: Exchange, request: web.Request, *, write: bool) -> Index:
        index = self._index(exchange, request, write=write)
        if not index.online:
            raise DatabricksError(
                400,
                "INVALID_STATE",
                f"Index {index.name} is not ready: {index.detailed_state}, endpoint {index.endpoint.state}",
            )
        return index

    def _advance_index(self, index: Index) -> None:
        if index.detailed_state != "PROVISIONING":
            return
        if index.polls_left:
            index.polls_left -= 1
        else:
            index.detailed_state = "ONLINE_DIRECT_ACCESS" if index.source is None else "ONLINE_NO_PENDING_UPDATE"

    def _index_info(self, index: Index) -> JsonObject:
        address = f"{self.url}{API}/indexes/{index.name}"
        state = index.detailed_state
        if "ONLINE" in state and index.endpoint.state != "ONLINE":
            state = "OFFLINE"
        return {
            "name": index.name,
            "endpoint_name": index.endpoint.name,
            "endpoint_type": index.endpoint.endpoint_type,
            "index_type": index.index_type,
            "primary_key": index.table.primary_key,
            "creator": index.creator,
            f"{index.index_type.lower()}_index_spec": index.spec,
            "status": {
                "detailed_state": state,
                "message": index.message or f"Index is {state}",
                "indexed_row_count": len(index.table),
                "ready": index.online,
                "index_url": address.removeprefix("http://") if self.behaviour.bare_index_url else address,
            },
        }

    def _get_serving_endpoint(self, _: Exchange, request: web.Request) -> JsonObject:
        """The official client reads the serving endpoint of an index that has an embedding model."""
        name = request.match_info["name"]
        return {"name": name, "id": f"serving-{name}", "route_optimized": False}

    # Rows

    def _upsert(self, exchange: Exchange, request: web.Request) -> web.Response:
        index = self._usable_index(exchange, request, write=True)
        _check_direct(index)
        rows = _upsert_rows(json_body(exchange))
        limit = self.behaviour.max_upsert_rows
        if limit is not None and len(rows) > limit:
            raise invalid(f"At most {limit} rows are taken in one request, not {len(rows)}")
        table = index.table
        failed: list[str] = []
        for row in rows:
            key = table.key_of(row.get(table.primary_key))
            if key is None:
                raise invalid(f"Every row needs its primary key {table.primary_key}")
            unknown = sorted(set(row) - set(table.schema))
            if unknown:
                raise invalid(f"Column {unknown[0]} is not in the schema of index {index.name}")
            row = row | {table.primary_key: key}
            if table.complaint(row) is not None or self._rejects(key):
                failed.append(str(key))
            else:
                self._write(index, functools.partial(table.put, row))
        return self._write_result(len(rows), failed)

    def _delete_data(self, exchange: Exchange, request: web.Request) -> web.Response:
        index = self._usable_index(exchange, request, write=True)
        _check_direct(index)
        given: Any = request.query.getall("primary_keys", [])
        if exchange.body is not None:
            given = json_body(exchange).get("primary_keys")
        if not isinstance(given, list) or not given:
            raise invalid("primary_keys must be a non-empty list")
        limit = self.behaviour.max_delete_keys
        if limit is not None and len(given) > limit:
            raise invalid(f"At most {limit} primary keys are taken in one request, not {len(given)}")
        table = index.table
        failed: list[str] = []
        for item in given:
            key = table.key_of(item)
            if key is None:
                raise invalid(f"{item!r} cannot be a primary key of index {index.name}")
            if self._rejects(key):
                failed.append(str(key))
            else:
                self._write(index, functools.partial(table.remove, key))
        return self._write_result(len(given), failed)

    def _write(self, index: Index, apply: Callable[[], None]) -> None:
        if self.behaviour.visible_after or index.pending:
            index.pending.append(Write(self.behaviour.visible_after, apply))
        else:
            apply()

    def _rejects(self, key: Key) -> bool:
        left = self.behaviour.rejected_keys.get(str(key), 0)
        if left > 0:
            self.behaviour.rejected_keys[str(key)] = left - 1
        return left != 0

    def _write_result(self, count: int, failed: list[str]) -> web.Response:
        status = "SUCCESS" if not failed else "FAILURE" if len(failed) == count else "PARTIAL_SUCCESS"
        result: JsonObject = {"success_row_count": count - len(failed)}
        if failed:
            result["failed_primary_keys"] = failed
        return self._data_response({"status": status, "result": result})

    # Queries

    def _query(self, exchange: Exchange, request: web.Request) -> web.Response:
        index = self._usable_index(exchange, request, write=False)
        index.settle()
        body = json_body(exchange)
        unmodelled = [name for name in _UNMODELLED if body.get(name)]
        if unmodelled:
            raise DatabricksError(501, "NOT_IMPLEMENTED", f"This emulator does not model {unmodelled[0]}")
        columns = body.get("columns")
        table = index.table
        if not isinstance(columns, list) or not columns:
            raise invalid("columns must be a non-empty list")
        missing = [str(name) for name in columns if not isinstance(name, str) or name not in table.schema]
        if missing:
            raise invalid(f"Requested columns to fetch are not present in index: {', '.join(missing)}")
        threshold = body.get("score_threshold")
        if threshold is not None and not _is_number(threshold):
            raise invalid("score_threshold must be a number")
        try:
            hits = self._hits(index, body)
        except FilterError as error:
            raise invalid(f"Invalid filter: {error}") from None
        if threshold is not None and not self.behaviour.ignores_threshold:
            hits = [hit for hit in hits if hit[1] >= threshold]
        hits = self._reranked(index, body, hits)[: body.get("num_results", 10)]
        rows = [[*table.cells(place, columns), score] for place, score in hits]
        described = [{"name": name, "type_text": table.schema[name]} for name in columns]
        described.append({"name": "score", "type_text": "double"})
        manifest = {"column_count": len(described), "columns": described}
        return self._result_page(Page(index.name, exchange.caller or "", manifest, rows))

    def _hits(self, index: Index, body: JsonObject) -> list[Hit]:
        kind = str(body.get("query_type") or "ANN").upper()
        text, vector = body.get("query_text"), body.get("query_vector")
        limit = body.get("num_results", 10)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= self.behaviour.max_results:
            raise invalid(f"num_results must be between 1 and {self.behaviour.max_results}")
        if body.get("reranker"):
            # The model is given the best 50, however few of them are asked for.
            limit = _RERANKED
        condition = _condition(index.endpoint, body)
        table = index.table
        columns = body.get("query_columns") or []
        _check_columns(index, columns)
        if kind not in ("ANN", "HYBRID", "FULL_TEXT"):
            raise invalid(f"Unknown query_type {kind}")
        if text is not None and not isinstance(text, str):
            raise invalid("query_text must be a string")
        if kind != "ANN":
            if not text:
                raise invalid(f"query_text is required for {kind}")
            limit = min(limit, self.behaviour.max_text_results)
        if kind == "FULL_TEXT":
            return table.full_text(text or "", columns, condition, limit)
        query = self._query_vector(index, text, vector)
        if kind == "HYBRID":
            return table.hybrid(query, text or "", columns, condition, limit)
        return table.nearest(query, condition, limit, SCORES[self.behaviour.score])

    def _reranked(self, index: Index, body: JsonObject, hits: list[Hit]) -> list[Hit]:
        """Put the best 50 of what was found in the order of the reranking model; fewer are returned when asked."""
        asked = body.get("reranker")
        if asked is None:
            return hits
        if not isinstance(asked, dict) or asked.get("model") != "databricks_reranker":
            raise invalid("reranker.model must be databricks_reranker")
        if asked.get("model_type", "MODEL_TYPE_BASE") != "MODEL_TYPE_BASE":
            raise invalid("reranker.model_type must be MODEL_TYPE_BASE for databricks_reranker")
        columns = (asked.get("parameters") or {}).get("columns_to_rerank")
        if not isinstance(columns, list) or not columns:
            raise invalid("reranker.parameters.columns_to_rerank must name at least one column")
        _check_columns(index, columns)
        if any(index.table.schema[name] != "string" for name in columns):
            raise invalid("reranker.parameters.columns_to_rerank must name text columns")
        text = body.get("query_text")
        if not text:
            raise invalid("query_text is required with a reranker")
        return index.table.reranked(hits[:_RERANKED], text, columns)

    def _query_vector(self, index: Index, text: str | None, vector: object) -> list[float]:
        if vector is None:
            if text and index.model is not None:
                return embed_text(text, index.table.dimension)
            raise invalid(f"query_vector is required: index {index.name} has no embedding model")
        if not isinstance(vector, list) or len(vector) != index.table.dimension:
            raise invalid(f"query_vector must have {index.table.dimension} dimensions")
        if not all(_is_number(value) and abs(value) <= FLOAT32_MAX for value in vector):
            raise invalid("query_vector must hold numbers of single precision")
        return vector

    def _next_page(self, exchange: Exchange, request: web.Request) -> web.Response:
        index = self._usable_index(exchange, request, write=False)
        body = json_body(exchange)
        page = self._pages.get(str(body.get("page_token")))
        if page is None or page.index != index.name or page.caller != (exchange.caller or ""):
            raise invalid("Invalid page_token")
        if body.get("endpoint_name") not in (None, index.endpoint.name):
            raise invalid(f"Index {index.name} is not on endpoint {body['endpoint_name']}")
        return self._result_page(page)

    def _result_page(self, page: Page) -> web.Response:
        rows, rest = page.rows[: self.behaviour.page_rows], page.rows[self.behaviour.page_rows :]
        body: JsonObject = {"manifest": page.manifest, "result": {"row_count": len(rows), "data_array": rows}}
        if rest:
            token = secrets.token_urlsafe(16)
            self._pages[token] = Page(page.index, page.caller, page.manifest, rest)
            while len(self._pages) > KEPT_PAGES:
                self._pages.popitem(last=False)
            body["next_page_token"] = token
        return self._data_response(body)

    def _scan(self, exchange: Exchange, request: web.Request) -> web.Response:
        index = self._usable_index(exchange, request, write=False)
        index.settle()
        body = exchange.body if isinstance(exchange.body, dict) else {}
        count = body.get("num_results", 10)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise invalid("num_results must be at least 1")
        table = index.table
        after = body.get("last_primary_key")
        key = None
        if after is not None:
            key = table.key_of(after)
            if key is None:
                raise invalid(f"{after!r} cannot be a primary key of index {index.name}")
        places = table.scan(key, min(count, self.behaviour.max_scan_rows))
        names = list(table.schema)
        data = [
            {
                "fields": [
                    {"key": name, "value": _struct_value(cell)}
                    for name, cell in zip(names, table.cells(place, names), strict=True)
                ]
            }
            for place in places
        ]
        answer: JsonObject = {"data": data}
        if places:
            answer["last_primary_key"] = str(table.cells(places[-1], [table.primary_key])[0])
        return self._data_response(answer)

    def _data_response(self, body: JsonObject) -> web.Response:
        return web.json_response(_camel(body) if self.behaviour.camel_case else body)


def _needed_scopes(path: str) -> tuple[str, ...]:
    if path.startswith(f"{API}/indexes"):
        return INDEX_SCOPES
    if re.match(rf"{API}/endpoints/[^/]+/indexes", path):
        return NESTED_SCOPES
    return ENDPOINT_SCOPES if path.startswith(API) else SERVING_SCOPES


def _target_qps(body: JsonObject, endpoint_type: str) -> int | None:
    """The queries a second that an endpoint is to be made for; -1 takes the wish back."""
    target = body.get("target_qps")
    if target is None or target == -1:
        return None
    if not isinstance(target, int) or isinstance(target, bool) or target < 1:
        raise invalid("target_qps must be a positive integer")
    if endpoint_type != "STANDARD":
        raise invalid("target_qps is supported by STANDARD endpoints only")
    return target


def _now_ms() -> int:
    return int(time.time() * 1000)


def _table(spec: JsonObject, primary_key: object) -> VectorTable:
    columns = spec.get("embedding_vector_columns") or spec.get("embedding_source_columns")
    try:
        schema = json.loads(spec["schema_json"])
        vector = columns[0] if isinstance(columns, list) and len(columns) == 1 else {}
        name, dimension = vector["name"], vector["embedding_dimension"]
    except (KeyError, TypeError, ValueError):
        raise invalid(
            "direct_access_index_spec needs schema_json and one embedding_vector_columns entry with name and "
            "embedding_dimension"
        ) from None
    if not isinstance(schema, dict):
        raise invalid("schema_json must be a JSON object of column types")
    for column, kind in schema.items():
        if not isinstance(kind, str) or not is_known_type(kind):
            raise invalid(f"Column {column} has unsupported type {kind!r}")
    if element_type(schema.get(name, "")) not in ("float", "double"):
        raise invalid(f"Column {name} must be in the schema as array<float> or array<double>")
    if not isinstance(dimension, int) or not 1 <= dimension <= 4096:
        raise invalid("embedding_dimension must be between 1 and 4096")
    if not isinstance(primary_key, str) or element_type(schema.get(primary_key, "array<x>")) is not None:
        raise invalid("primary_key must name a scalar column of the schema")
    return VectorTable(schema, primary_key, name, dimension)


def _synced(source: VectorTable, spec: JsonObject) -> dict[str, str]:
    """The columns of a table that an index takes."""
    wanted = spec.get("columns_to_sync")
    always = {source.primary_key, source.vector_column}
    return {name: kind for name, kind in source.schema.items() if not wanted or name in always or name in wanted}


def _check_direct(index: Index) -> None:
    if index.source is not None:
        raise invalid(f"Index {index.name} is a delta-sync index: write to its source table and sync")


def _embedding_model(spec: JsonObject) -> str | None:
    sources = spec.get("embedding_source_columns") or [{}]
    model = sources[0].get("embedding_model_endpoint_name")
    return model if isinstance(model, str) else None


def _check_columns(index: Index, columns: object) -> None:
    if not isinstance(columns, list):
        raise invalid("columns must be a list")
    for name in columns:
        if not isinstance(name, str) or name not in index.table.schema:
            raise invalid(f"Column {name} is not in the schema of index {index.name}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _upsert_rows(body: JsonObject) -> list[Row]:
    given = body.get("inputs_json")
    if not isinstance(given, str):
        raise invalid("inputs_json must be a string that holds a JSON list of rows")
    try:
        rows = read_json(given)
    except ValueError:
        raise invalid("inputs_json is not valid JSON") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise invalid("inputs_json must hold a non-empty list of objects")
    return rows


def _condition(endpoint: Endpoint, body: JsonObject) -> Condition | None:
    given, text = body.get("filters_json"), body.get("filter_string")
    if endpoint.endpoint_type == "STANDARD":
        if text:
            raise invalid("filter_string is for storage-optimized endpoints; a standard endpoint takes filters_json")
        if not given:
            return None
        if not isinstance(given, str):
            raise invalid("filters_json must be a string that holds JSON")
        try:
            filters = read_json(given)
        except ValueError:
            raise invalid("filters_json is not valid JSON") from None
        return read_dict_filter(filters)
    if given:
        raise invalid("filters_json is for standard endpoints; a storage-optimized endpoint takes filter_string")
    if not text:
        return None
    if not isinstance(text, str):
        raise invalid("filter_string must be a string")
    return read_string_filter(text)


def _struct_value(cell: Any) -> JsonObject:
    """A value in the encoding of protobuf's Struct; null is a value with nothing in it."""
    if cell is None:
        return {}
    if isinstance(cell, bool):
        return {"bool_value": cell}
    if isinstance(cell, int | float):
        return {"number_value": cell}
    if isinstance(cell, list):
        return {"list_value": {"values": [_struct_value(item) for item in cell]}}
    return {"string_value": cell}


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {_camel_name(name): _camel(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_camel(item) for item in value]
    return value


def _camel_name(name: str) -> str:
    first, *others = name.split("_")
    return "".join(itertools.chain([first], (word.capitalize() for word in others)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve an emulator of Databricks Vector Search on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port (printed)")
    parser.add_argument("--no-log", action="store_true", help="keep no log of requests")
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve_until_cancelled(VectorSearchEmulator(port=arguments.port, record=not arguments.no_log)))


if __name__ == "__main__":
    main()
