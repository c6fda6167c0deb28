"""A web site that answers with what servers should not."""

import asyncio
import gzip
from collections import Counter

from aiohttp import web

from tests.support.http_emulator import HttpEmulator
from tests.support.pdf_files import pdf_of

PAGE = "<html><head><title>News</title></head><body><main><h1>News</h1><p>{}</p></main></body></html>"
PAGES = {
    "/page": ("text/html", PAGE.format("All is well.").encode()),
    "/file.pdf": ("application/pdf", pdf_of("From a file")),
    "/data.json": ("application/json", b'{"ok": true, "nul": "a\\u0000b"}'),
    "/bytes": ("text/plain", b"\xff\xfe\x00bad"),
    "/image": ("image/gif", b"GIF89a"),
    "/deep": ("text/html", b"<div>" * 100_000 + b"x"),
    "/deep.json": ("application/json", b"[" * 100_000),
    "/orders": ("application/json", b'{"state": "made"}'),
}
"""Type and body of each page."""
MOVES = {"/moved": "/page", "/loop": "/loop"}


class Site(HttpEmulator):
    """Pages of a site; `robots` is its robots.txt, None answers with 404."""

    def __init__(self) -> None:
        super().__init__()
        self.robots: str | None = None
        self.robots_status = 200
        self.long_text = "word " * 30_000
        self.elsewhere = ""
        """Where /away leads."""
        self.seen: Counter[str] = Counter()
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._let_go = asyncio.Event()

    def install(self, app: web.Application) -> None:
        app.router.add_route("*", "/{path:.*}", self._serve)

    def let_go(self) -> None:
        self._let_go.set()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.seen[request.path] += 1
        self.bodies.append(await request.read())
        self.headers.append(dict(request.headers))
        match request.path:
            case "/robots.txt":
                if self.robots is None and self.robots_status == 200:
                    raise web.HTTPNotFound
                return web.Response(text=self.robots or "", status=self.robots_status)
            case "/long":
                return web.Response(text=PAGE.format(self.long_text), content_type="text/html")
            case "/away":
                raise web.HTTPFound(self.elsewhere)
            case "/bomb":
                return web.Response(body=_bomb(), content_type="text/html", headers={"Content-Encoding": "gzip"})
            case "/endless":
                return await self._endless(request)
            case "/silent":
                await self._let_go.wait()
            case "/lost":
                assert request.transport is not None
                request.transport.close()
        if request.path in MOVES:
            raise web.HTTPFound(MOVES[request.path])
        if request.path not in PAGES:
            raise web.HTTPNotFound
        content_type, body = PAGES[request.path]
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        while not self._let_go.is_set():
            await response.write(b"<p>more</p>" * 100 + b"<p>" + b"more " * 10_000 + b"</p>")
        return response


def _bomb() -> bytes:
    return gzip.compress(b"<p>" + b"x" * 200_000_000)
