"""Searches the web with the key of a group, through a service that the operator chose."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from services.common.egress import required_origin
from services.common.http import EgressClient, read_limited
from services.common.identity.principal import Principal
from services.orchestrator.tool_gateway.adapters.foreign import ForeignTextError, parse_object, shown
from services.orchestrator.tool_gateway.credentials import SourceCredentials
from services.orchestrator.tool_gateway.http_bodies import error_text, masked
from services.orchestrator.tool_gateway.http_statuses import parse_retry_after
from services.orchestrator.tool_gateway.ports import CallProgress, CallRefused, NotSent, ToolCallRequest, ToolResult

SECRET = "tools/search"
"""Name of the group's key."""
_MAX_BYTES = 1024 * 1024
_REQUEST_SECONDS = 30.0
_DEFAULT_RESULTS = 5
_SNIPPET_BYTES = 4000
_TITLE_BYTES = 400


class WebSearch:
    """`web_search`."""

    def __init__(self, egress: EgressClient, credentials: SourceCredentials, *, base_url: str, wire: str) -> None:
        """`wire` is what the service at `base_url` speaks: tavily or serper."""
        self._egress = egress
        self._credentials = credentials
        self._url = f"{base_url}/search" if base_url else ""
        self._wire = wire

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:  # noqa: ARG002
        """Return what is found; searching has no effect, so that nothing is told. See `ToolAdapter`."""
        key = await self.key(request.principal)
        query = str(request.arguments["query"])
        limit = int(request.config.get("max_results", _DEFAULT_RESULTS))
        answer = await self._ask(key, query, limit)
        if isinstance(answer, ToolResult):
            return answer
        results = [found for found in map(_result, _listed(answer)) if found][:limit]
        text = "\n\n".join(_shown(number, found) for number, found in enumerate(results, 1))
        return ToolResult(text or "Nothing was found.", structured={"results": results})

    async def key(self, principal: Principal) -> str:
        """Return the key of a principal's group; see `SourceCredentials.headers` for what is raised.

        Raises:
            CallRefused: the operator has chosen no service.
        """
        if not self._url:
            raise CallRefused(
                "this installation has no search service; the operator chooses one with COXSWAIN_TOOLS_SEARCH_BASE_URL",
                reason="TOOL_UNAVAILABLE",
            )
        return await self._credentials.secret(principal, SECRET, required_origin(self._url))

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:  # noqa: ARG002
        """Search again, which changes nothing; see `ToolAdapter`."""
        return await self.call(request, progress)

    async def _ask(self, key: str, query: str, limit: int) -> "Mapping[str, Any] | ToolResult":
        """Return the service's answer, or what it says is wrong with the query."""
        if self._wire == "serper":
            headers, body = {"x-api-key": key}, {"q": query, "num": limit}
        else:
            headers, body = {"authorization": f"Bearer {key}"}, {"query": query, "max_results": limit}
        origin = required_origin(self._url)
        try:
            response = await self._egress.request(
                "POST",
                self._url,
                # The operator chose it.
                trusted=True,
                data=json.dumps(body).encode(),
                headers={"content-type": "application/json", "accept": "application/json", **headers},
                total_timeout=_REQUEST_SECONDS,
            )
            async with response:
                content = await read_limited(response, _MAX_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise NotSent(f"{origin} did not answer ({type(error).__name__})") from error
        if response.status != 200:
            return _declined(origin, response, content or b"", key)
        try:
            return parse_object(masked((content or b"").decode("utf-8", "replace"), [key]), f"the answer of {origin}")
        except ForeignTextError as error:
            raise NotSent(str(error)) from error


def _declined(origin: str, response: aiohttp.ClientResponse, content: bytes, key: str) -> ToolResult:
    status = response.status
    if status in (401, 403):
        raise CallRefused(
            f"{origin} refuses the group's key {SECRET}; an admin stores a valid one with PutSecret",
            reason="UPSTREAM_CREDENTIAL_REJECTED",
        )
    if status == 429:
        raise NotSent(
            f"{origin} takes no more searches for now",
            reason="TOOL_RATE_LIMITED",
            retry_after=parse_retry_after(response.headers.get("Retry-After", "")),
        )
    if status in (402, 432, 433):
        raise CallRefused(f"the plan of the group's key {SECRET} at {origin} is used up", reason="TOOL_RATE_LIMITED")
    if status >= 500 or status < 400:
        raise NotSent(f"{origin} answered with HTTP status {status}")
    said = error_text(content, response.headers.get("Content-Type", ""), [key])
    return ToolResult(f"{origin} did not search: HTTP {status} {said}".strip(), is_error=True)


def _listed(answer: Mapping[str, Any]) -> Sequence[Any]:
    """Return the pages in an answer of either wire."""
    found = answer.get("results", answer.get("organic"))
    return found if isinstance(found, list) else []


def _result(found: Any) -> dict[str, str]:
    """Return a page; empty when it has no address of one."""
    if not isinstance(found, dict):
        return {}
    url = _text(found, "url", "link", limit=4096)
    if not url.startswith(("http://", "https://")):
        return {}
    return {
        "title": _text(found, "title", limit=_TITLE_BYTES),
        "url": url,
        "snippet": _text(found, "content", "snippet", limit=_SNIPPET_BYTES),
        "date": _text(found, "published_date", "date", limit=64),
    }


def _text(found: Mapping[str, Any], *names: str, limit: int) -> str:
    values = (found.get(name) for name in names)
    return next((shown(value, limit).strip() for value in values if isinstance(value, str)), "")


def _shown(number: int, found: Mapping[str, str]) -> str:
    date = f" ({found['date']})" if found["date"] else ""
    return f"{number}. {found['title'] or found['url']}{date}\n{found['url']}\n{found['snippet']}".strip()
