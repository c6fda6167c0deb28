"""A search service that speaks both wires of `web_search`."""

from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.http_emulator import HttpEmulator


@dataclass
class Asked:
    """A search as it came."""

    key: str
    body: dict[str, Any]


@dataclass
class SearchEmulator(HttpEmulator):
    """POST /search with a bearer token is answered as Tavily does, with X-API-KEY as Serper does."""

    keys: set[str] = field(default_factory=set)
    """Those that are valid."""
    failures: list[web.Response] = field(default_factory=list)
    """What the next searches are answered with instead."""
    pages: list[dict[str, str]] = field(default_factory=list)
    """Title, url, text and date of each page that is found."""
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def install(self, app: web.Application) -> None:
        app.router.add_post("/search", self._search)

    async def _search(self, request: web.Request) -> web.Response:
        is_serper = "X-API-KEY" in request.headers
        key = request.headers.get("X-API-KEY", "") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        body = await request.json()
        self.asked.append(Asked(key, body))
        if self.failures:
            return self.failures.pop(0)
        if key not in self.keys:
            return web.json_response({"message": f"Unauthorized: {key}"}, status=401)
        if is_serper:
            found = [
                {
                    "title": page["title"],
                    "link": page["url"],
                    "snippet": page["text"],
                    "position": number,
                    **({"date": page["date"]} if page["date"] else {}),
                }
                for number, page in enumerate(self.pages[: body["num"]], 1)
            ]
            return web.json_response({"searchParameters": {"q": body["q"]}, "organic": found, "credits": 1})
        results = [
            {"title": page["title"], "url": page["url"], "content": page["text"], "score": 0.9, "raw_content": None}
            | ({"published_date": page["date"]} if page["date"] else {})
            for page in self.pages[: body["max_results"]]
        ]
        return web.json_response({"query": body["query"], "answer": None, "images": [], "results": results})
