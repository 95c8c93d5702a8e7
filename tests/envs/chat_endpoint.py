"""A real HTTP server on 127.0.0.1 that plays an OpenAI-compatible endpoint: it gives the answers it is told to give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


def completion(
    text: object = "hello", finish_reason: object = "stop", usage: object = (7, 3), **choice: object
) -> dict[str, Any]:
    """The body of a good answer, or of one with wrong parts."""
    if isinstance(usage, tuple):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **choice}], "usage": usage}


def json_reply(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        return web.Response(text=json.dumps(body), status=status, headers=headers, content_type="application/json")

    return reply


def error_reply(status: int, message: str = "", headers: dict[str, str] | None = None, **error: object) -> Reply:
    return json_reply({"error": {"message": message, **error}}, status, headers)


def raw_reply(body: bytes, content_type: str = "text/html", **headers: str) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type, headers=headers)

    return reply


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def drip(request: web.Request) -> web.StreamResponse:
    """Bytes now and then, for ever: no read times out."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def flood(request: web.Request) -> web.StreamResponse:
    """More bytes than anybody should read."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1024):
        await response.write(b" " * 65536)
    return response


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class ChatEndpoint:
    """Gives `replies` one after another, the last one for ever; keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [json_reply(completion())]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.asked = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.asked.set()
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return await self.replies[min(len(self.bodies), len(self.replies)) - 1](request)


@asynccontextmanager
async def serving() -> AsyncIterator[ChatEndpoint]:
    """A running endpoint; whatever still hangs when it is left is cut off."""
    endpoint = ChatEndpoint()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", endpoint.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield endpoint
    finally:
        await runner.cleanup()
