"""Reads pages and PDF files of the web."""

import asyncio
import re
import time
from dataclasses import dataclass
from urllib.parse import urldefrag, urljoin, urlsplit

import aiohttp

from services.common.cache import AsyncCache, ExpiringCache
from services.common.egress import origin_of, required_origin
from services.common.errors import PermissionDenied
from services.common.http import EgressClient, iter_body
from services.common.reading.reader import CannotRead
from services.orchestrator.tool_catalogue.web import PAGE_CHARACTERS
from services.orchestrator.tool_gateway.adapters.foreign import shown
from services.orchestrator.tool_gateway.http_statuses import parse_retry_after
from services.orchestrator.tool_gateway.parsing.parser import BoundedParser
from services.orchestrator.tool_gateway.ports import CallProgress, CallRefused, ToolCallRequest, ToolResult

AGENT = "coxswain"
MAX_BYTES = 2 * 1024 * 1024
_MAX_ROBOTS_BYTES = 500 * 1024
_MAX_REDIRECTS = 3
_REQUEST_SECONDS = 45.0
_ROBOTS_SECONDS = 10.0
_ROBOTS_KEPT_SECONDS = 600.0
_PAGE_KEPT_SECONDS = 300.0
_KEPT_CHARACTERS = 32_000_000
_ROBOTS_KEPT = 200
_DEFAULT_LINKS = 50
_CHARSET = re.compile(r"charset=\"?([A-Za-z0-9._-]{1,40})", re.IGNORECASE)
_ALLOW_ALL = ""
_ACCEPT = "text/html, application/xhtml+xml, application/pdf, text/plain, application/json;q=0.9, */*;q=0.1"


class Unreadable(Exception):
    """An address cannot be read; the text is for the model."""

    def __init__(self, text: str, status: int = 0) -> None:
        """`status` is that of HTTP, where there was one; 503 where nothing answered."""
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Page:
    """What was read."""

    url: str
    """Where it was found, after redirects."""
    title: str
    text: str
    links: tuple[tuple[str, str], ...] = ()
    """Text and address of each."""
    note: str = ""
    """What is missing of it."""

    @property
    def size(self) -> int:
        """Characters it takes to keep it."""
        return len(self.text) + sum(len(text) + len(url) for text, url in self.links) + 1000


@dataclass(frozen=True, slots=True)
class _Body:
    url: str
    content: bytes
    content_type: str
    is_cut: bool


class WebFetch:
    """`web_fetch`. What a group has read is kept for a few minutes, so that the parts of a page fit together."""

    def __init__(self, egress: EgressClient, reader: BoundedParser, *, honor_robots: bool) -> None:
        self._egress = egress
        self._reader = reader
        self._honor_robots = honor_robots
        self._pages: ExpiringCache[tuple[str, str], Page] = ExpiringCache(
            _KEPT_CHARACTERS, time.monotonic, lambda page: page.size
        )
        self._robots: AsyncCache[tuple[str, str], str] = AsyncCache(_ROBOTS_KEPT, _ROBOTS_KEPT_SECONDS)

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:  # noqa: ARG002
        """Return a part of a page; reading has no effect, so that nothing is told. See `ToolAdapter`."""
        group_id, start = request.principal.group_id, int(request.arguments.get("start") or 0)
        url = urldefrag(str(request.arguments["url"]).strip()).url
        allowed = request.config.get("origins")
        try:
            _check_origin(url, allowed)
            page = self._pages.get((group_id, url)) if start else None
            if page is None:
                page = await self._read(group_id, url)
                self._pages.put((group_id, url), page, time.monotonic() + _PAGE_KEPT_SECONDS)
        except Unreadable as error:
            return ToolResult(str(error), is_error=True)
        except PermissionDenied as error:
            raise CallRefused(error.message, reason=error.reason) from error
        return _part(page, start, int(request.config.get("max_links", _DEFAULT_LINKS)))

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:  # noqa: ARG002
        """Read the page again, which changes nothing; see `ToolAdapter`."""
        return await self.call(request, progress)

    async def _read(self, group_id: str, url: str) -> Page:
        body = await self._get(group_id, url)
        media = body.content_type.partition(";")[0].strip().lower()
        note = f"The page is longer than {MAX_BYTES} bytes; this is its beginning." if body.is_cut else ""
        if media == "application/pdf" or body.content.startswith(b"%PDF-"):
            if body.is_cut:
                raise Unreadable(f"{body.url} is a PDF file of more than {MAX_BYTES} bytes, which is not read")
            return await self._parsed(group_id, body, "pdf", note)
        if media in ("text/html", "application/xhtml+xml") or (not media and b"<html" in body.content[:2048].lower()):
            return await self._parsed(group_id, body, "page", note, charset=_charset(body.content_type), url=body.url)
        if media.startswith("text/") or media.endswith(("json", "xml", "yaml")) or not media:
            text = body.content.decode(_charset(body.content_type) or "utf-8", "replace")
            return Page(body.url, "", shown(text, 4 * MAX_BYTES), note=note)
        raise Unreadable(f"{body.url} is of the type {media[:100]}, which has no text to read")

    async def _parsed(self, group_id: str, body: _Body, what: str, note: str, **given: str) -> Page:
        try:
            found = await self._reader.read(group_id, what, body.content, **given)
        except CannotRead as error:
            raise Unreadable(f"{body.url} cannot be read: {error}") from error
        links = tuple((shown(link["text"], 400), link["url"]) for link in found["links"])
        text = shown(found["text"], 4 * len(found["text"]))
        return Page(body.url, shown(found["title"], 1000), text, links, note)

    async def _get(self, group_id: str, url: str) -> _Body:
        for _ in range(_MAX_REDIRECTS + 1):
            await self._check_robots(group_id, url)
            answer = await self._request(url, MAX_BYTES, _REQUEST_SECONDS, {"accept": _ACCEPT})
            if isinstance(answer, _Body):
                return answer
            if origin_of(answer) != origin_of(url):
                raise Unreadable(f"{url} has moved to {answer}; read that address instead if you trust it")
            url = answer
        raise Unreadable(f"{url} leads from one address to the next without an end")

    async def _request(self, url: str, max_bytes: int, seconds: float, headers: dict[str, str]) -> "_Body | str":
        """Return the body at an address, or the address that it has moved to.

        Raises:
            Unreadable: it has none, or does not answer.
            PermissionDenied: DESTINATION_NOT_ALLOWED.
        """
        try:
            async with asyncio.timeout(seconds):
                async with await self._egress.request("GET", url, trusted=False, headers=headers) as response:
                    location = response.headers.get("Location", "")
                    if response.status in (301, 302, 303, 307, 308) and location:
                        return urldefrag(urljoin(url, location)).url
                    if response.status != 200:
                        raise Unreadable(_declined(url, response), response.status)
                    content, is_cut = await _beginning(response, max_bytes)
                    return _Body(url, content, response.headers.get("Content-Type", ""), is_cut)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # Their texts may name addresses inside.
            raise Unreadable(f"{required_origin(url)} did not answer ({type(error).__name__})", 503) from error

    async def _check_robots(self, group_id: str, url: str) -> None:
        if not self._honor_robots:
            return
        origin = required_origin(url)
        robots = await self._robots.get((group_id, origin), lambda: self._read_robots(origin))
        if robots == _ALLOW_ALL:
            return
        try:
            found = await self._reader.read(group_id, "robots", robots=robots, url=url, agent=AGENT)
        except CannotRead as error:
            raise Unreadable(f"the robots.txt of {origin} cannot be read: {error}") from error
        if not found["allowed"]:
            raise Unreadable(f"{origin} asks robots not to read this page (robots.txt)")

    async def _read_robots(self, origin: str) -> str:
        """Return the robots.txt of an origin; where there is none, everything may be read (RFC 9309).

        Raises:
            Unreadable: the site fails, which has to be taken for a refusal.
        """
        url = f"{origin}/robots.txt"
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                answer = await self._request(url, _MAX_ROBOTS_BYTES, _ROBOTS_SECONDS, {})
                if isinstance(answer, _Body):
                    return answer.content.decode("utf-8", "replace")
                if origin_of(answer) != origin:
                    return _ALLOW_ALL
                url = answer
        except Unreadable as error:
            if error.status >= 500:
                raise Unreadable(f"its robots.txt cannot be read: {error}", error.status) from error
        return _ALLOW_ALL


def _declined(url: str, response: aiohttp.ClientResponse) -> str:
    wait = parse_retry_after(response.headers.get("Retry-After", ""))
    later = "" if wait is None else f"; it asks to come back in {wait:.0f} s"
    return f"{url} answered with HTTP status {response.status}{later}"


async def _beginning(response: aiohttp.ClientResponse, max_bytes: int) -> tuple[bytes, bool]:
    """Return the beginning of a body, and whether there is more."""
    parts, size = [], 0
    async for part in iter_body(response):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            break
    return b"".join(parts)[:max_bytes], size > max_bytes


def _check_origin(url: str, allowed: object) -> None:
    try:
        has_scheme = urlsplit(url).scheme.lower() in ("http", "https")
    except ValueError:
        has_scheme = False
    if not has_scheme:
        raise Unreadable("the address has to begin with https://")
    origin = required_origin(url)
    if isinstance(allowed, list | tuple) and origin not in {origin_of(str(one)) for one in allowed}:
        raise Unreadable(f"the crew may not read {origin}, only {', '.join(map(str, allowed))}")


def _part(page: Page, start: int, max_links: int) -> ToolResult:
    """Return the part of a page that begins at a character."""
    total = len(page.text)
    if start >= total > 0:
        return ToolResult(f"the page has {total} characters; there is nothing at {start}", is_error=True)
    end = min(total, start + PAGE_CHARACTERS)
    blocks = [f"# {page.title}" if page.title and not start else "", f"Address: {page.url}" if not start else ""]
    blocks.append(page.text[start:end] or "[The page has no text.]")
    if not start and page.links and max_links:
        shown_links = "\n".join(f"- [{text}]({url})" for text, url in page.links[:max_links])
        blocks.append(f"Links of the page:\n{shown_links}")
    if page.note and end == total:
        blocks.append(f"[{page.note}]")
    if start or end < total:
        more = f" Call again with start={end} for more." if end < total else ""
        blocks.append(f"[Characters {start} to {end} of {total}.{more}]")
    return ToolResult("\n\n".join(block for block in blocks if block))


def _charset(content_type: str) -> str:
    found = _CHARSET.search(content_type)
    if found is None:
        return ""
    try:
        return "" if "\0".encode(found[1]) == b"" else found[1]
    except (LookupError, UnicodeError):
        return ""
