"""A local search folder as a search service over HTTP, in SearXNG's form: the web's part where there is no web.

    GET /search?q=…&format=json[&categories=images]   {"results": [{"title", "url", "content", "img_src"}]}
    GET /pictures/…                                   a picture file of the folder

For trying live search and for measuring: everything between us and a service is real. Knows nothing of who asks. Always
holds: it serves the folder's own answers and the pictures they name, nothing else of the machine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from envs.tools.base import SearchTool
from sake_ray.types import SearchKind


@dataclass
class SearchServer:
    """Answers from `tool`; `delay_s` is the mean of an exponential wait before each answer (0: none)."""

    tool: SearchTool
    root: Path
    delay_s: float = 0.0
    seed: int = 0
    url: str = ""
    requests: int = 0
    _served: set[Path] = field(default_factory=set)
    _random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        """Make the waits repeatable."""
        self._random = random.Random(f"search-server-{self.seed}")

    async def search(self, request: web.Request) -> web.Response:
        """One query."""
        self.requests += 1
        if self.delay_s:
            await asyncio.sleep(self._random.expovariate(1 / self.delay_s))
        query = request.query.get("q", "")
        if not query.strip() or request.query.get("format") != "json":
            raise web.HTTPBadRequest(text="q=… and format=json are needed")
        kind = SearchKind.IMAGE if request.query.get("categories") == "images" else SearchKind.TEXT
        return web.json_response({"query": query, "results": await self._results(kind, query)})

    async def picture(self, request: web.Request) -> web.FileResponse:
        """One picture that an answer named."""
        path = (self.root / request.match_info["file"]).resolve()
        if path not in self._served:
            raise web.HTTPNotFound
        return web.FileResponse(path)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application()
        app.router.add_get("/search", self.search)
        app.router.add_get("/pictures/{file:.*}", self.picture)
        return app

    async def _results(self, kind: SearchKind, query: str) -> list[dict[str, str]]:
        if kind is SearchKind.TEXT:
            (found,) = await self.tool.search_text("", [query])
            row = {"title": query, "url": f"{self.url}/articles", "content": found.text}
            return [row] if found.status == "success" else []
        (found,) = await self.tool.search_images("", [query])
        addresses = [self._address(Path(image.path)) for image in found.images]
        return [{"title": query, "url": address, "img_src": address} for address in addresses]

    def _address(self, file: Path) -> str:
        self._served.add(file.resolve())
        return f"{self.url}/pictures/{file.resolve().relative_to(self.root.resolve())}"


@asynccontextmanager
async def serving(server: SearchServer, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[SearchServer]:
    """Serve on `host` until the context is left; `server.url` is the address (port 0: a free one)."""
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        server.url = f"http://{host}:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
