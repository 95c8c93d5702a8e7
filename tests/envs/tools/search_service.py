"""A real HTTP server on 127.0.0.1 that plays Serper, SearXNG and a site with pictures: it answers as it is told to."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from PIL import Image

from tests.envs.chat_endpoint import Reply, json_reply

SERPER_TEXT = {
    "knowledgeGraph": {"title": "Eiffel Tower", "type": "Tower", "description": "A tower in Paris."},
    "organic": [
        {"title": "Eiffel Tower", "snippet": "It is 330 metres tall.", "link": "https://a.example/1"},
        {"title": "Again", "snippet": "It is 330 metres tall .", "link": "https://a.example/2"},
        {"title": "Gustave", "snippet": "Named after an engineer.", "link": "https://a.example/3"},
    ],
}


class Service:
    """Gives `replies` to searches one after another, the last one for ever; keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [json_reply(SERPER_TEXT)]
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.pictures: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.came = asyncio.Event()
        self.url = ""

    async def search(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.method == "POST" else dict(request.query)
        self.asked.append((request.path, body))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.came.set()
        return await self.replies[min(len(self.asked), len(self.replies)) - 1](request)

    async def picture(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.fetched.append(name)
        if name not in self.pictures:
            raise web.HTTPNotFound
        return web.Response(body=self.pictures[name], content_type="image/png")

    def add_picture(self, name: str, color: str = "red", size: tuple[int, int] = (40, 30)) -> str:
        """Publish a picture; returns its address."""
        self.pictures[name] = picture(color, size)
        return f"{self.url}/pictures/{name}"


def picture(color: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def by_key(replies: dict[str, Reply]) -> Reply:
    """Answers by the key that was sent."""

    async def reply(request: web.Request) -> web.StreamResponse:
        return await replies[request.headers["X-API-KEY"]](request)

    return reply


def redirect_to(place: str) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(place)

    return reply


def waiting_for(event: asyncio.Event, then: Reply) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        await event.wait()
        return await then(request)

    return reply


@asynccontextmanager
async def serving() -> AsyncIterator[Service]:
    """A running service; whatever still hangs when it is left is cut off."""
    service = Service()
    app = web.Application()
    handlers: list[tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = [
        ("POST", "/search", service.search),
        ("POST", "/images", service.search),
        ("GET", "/search", service.search),
        ("GET", "/pictures/{name}", service.picture),
    ]
    for method, path, handler in handlers:
        app.router.add_route(method, path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield service
    finally:
        await runner.cleanup()
