"""A service that says what a test tells it to, over real HTTP: for tests of the service's page.

Knows nothing of policies or searches. Always holds: it serves the page's own files with their headers; each extraction
is one that the service could read, takes the next scripted answer of its policy (or one that the stub makes up) and is
kept in `asked`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from PIL import Image

from sake_ray.data.miniworld import board_picture, look_picture
from sake_ray.pages.service_files import INDEX, SECURITY_HEADERS, service_files
from sake_ray.serving.problems import Problem
from sake_ray.serving.request import RequestLimits, read_extract

BOARD = ("red circle", None, "blue square", None, "green cross", None, "yellow circle", None, None)
POST = "Lodamo meets Bakedo today near Tiraso"
LIMITS = {
    "max_text_chars": 4_000, "max_body_bytes": 4_000_000, "max_image_pixels": 40_000_000, "text_searches": 2,
    "image_searches": 1, "max_deadline_s": 120.0, "max_batch": 8,
}  # fmt: skip
_READER = RequestLimits(text_searches=2, image_searches=1, deadline_s=120.0)


def png(picture: Image.Image) -> bytes:
    """A picture's file."""
    held = io.BytesIO()
    picture.save(held, "PNG")
    return held.getvalue()


def policy(name: str, step: int = 20) -> dict[str, Any]:
    """A policy as the service tells of it."""
    return {"name": name, "model": "rl_mini/best_policy", "checkpoint": f"step-{step:06d}", "version": step // 10}


def entity(text: str, said: str, kind: str, box: Sequence[float] | None, searched: bool = False) -> dict[str, Any]:
    """An entity of the post `text`, at the first place where `said` stands."""
    start = text.find(said)
    span = [start, start + len(said)] if start >= 0 else None
    return {"text": said, "type": kind, "span": span, "box": box, "searched": searched}


def search_of(query: str, text: str, *, status: str = "success", reason: str | None = None,
              images: Sequence[Mapping[str, Any]] = (), kind: str = "text") -> dict[str, Any]:  # fmt: skip
    """A search with one query."""
    result = {"query": query, "status": status, "reason": reason, "text": text, "cached": False, "images": [*images]}
    return {"kind": kind, "seconds": 0.2, "results": [result]}


def turn_of(index: int, text: str, reasoning: str, action: str, search: Mapping[str, Any] | None) -> dict[str, Any]:
    """A turn as the service tells of it."""
    return {
        "index": index, "text": text, "reasoning": reasoning, "action": action, "malformed": None,
        "prompt_tokens": 120, "tokens": 40, "generate_s": 0.12, "search": search,
    }  # fmt: skip


def result_of(
    text: str,
    entities: Sequence[Mapping[str, Any]],
    *,
    searches: Sequence[Mapping[str, Any]] = (),
    name: str = "a",
    size: tuple[int, int] = (84, 84),
    reasoning: str = "I know these",
) -> dict[str, Any]:
    """A whole answer: a turn for each search, and one that answers."""
    turns = [
        turn_of(i, f"<reason>who is it?</reason><text_search>{json.dumps([{'query': search['results'][0]['query']}])}"
                "</text_search>", "who is it?", f"{search['kind']}_search", search)
        for i, search in enumerate(searches)
    ]  # fmt: skip
    said = [{"entity": one["text"], "type": one["type"], "box2d": one["box"] or []} for one in entities]
    raw = f"<reason>{reasoning}</reason><answer>{json.dumps(said)}</answer>"
    turns.append(turn_of(len(turns), raw, reasoning, "answer", None))
    return {
        "id": f"ex-{name}", "policy": policy(name), "text": text, "image": {"width": size[0], "height": size[1]},
        "entities": [*entities], "stop": "answer", "turns": turns,
        "usage": {"prompt_tokens": 240, "generated_tokens": 80, "searches": len(searches), "queries": len(searches)},
        "seconds": {"wait": 0.0, "generate": 0.24, "search": 0.2, "total": 0.45}, "seed": 0,
    }  # fmt: skip


def event(name: str, value: Any) -> bytes:
    """One event of a stream."""
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()


def events_of(result: Mapping[str, Any], pieces: int = 6) -> list[bytes]:
    """A whole answer as the events that lead to it; each turn's text comes in `pieces`."""
    told = [event("start", {"id": result["id"], "policy": result["policy"], "image": result["image"]})]
    for turn in result["turns"]:
        text, index = turn["text"], turn["index"]
        size = -(-len(text) // pieces)
        told += [event("delta", {"turn": index, "text": text[at : at + size]}) for at in range(0, len(text), size)]
        told.append(b": still here\n\n")
        told.append(event("turn", {**turn, "search": None}))
        if turn["search"]:
            told.append(event("search", {"turn": index, "search": turn["search"]}))
    return [*told, event("result", result)]


class Gate(asyncio.Event):
    """A step of an answer at which the stub waits until a test opens it."""


class Drop:
    """A step of an answer at which the connection breaks."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one extraction gets: bytes as they are, gates to wait at, a break; or a problem instead."""

    steps: Sequence[bytes | Gate | Drop] = ()
    problem: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def problem(code: str, status: int, detail: str, *, about: str | None = None, retry_after: int | None = None) -> Answer:
    """An answer that is a problem."""
    told = {"type": f"urn:sake-ray:problem:{code}", "title": code, "status": status, "detail": detail}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Answer(problem={**told, **({} if about is None else {"field": about})}, headers=headers)


class ServiceStub:
    """The service; what its fields hold is what it tells."""

    def __init__(self) -> None:
        self.origin = ""
        self.asked: list[dict[str, Any]] = []
        self.aborted = asyncio.Event()
        self.policies = [policy("a")]
        self.token = ""
        self.examples: list[dict[str, Any]] = [
            {"id": "board-1", "text": POST, "group": "MiniWorld", "note": "one is known, two are not"},
            {"id": "board-2", "text": "good morning from Tiraso", "group": "yours", "note": ""},
        ]
        self._scripts: dict[str, list[Answer]] = {}

    def script(self, *answers: Answer, name: str = "") -> None:
        """The next answers of a policy (by the name it is asked for)."""
        self._scripts.setdefault(name, []).extend(answers)

    def app(self) -> web.Application:
        """What serves it."""
        app = web.Application(client_max_size=64 * 2**20, middlewares=[self._around])
        app.router.add_get("/", self._file)
        app.router.add_get("/assets/{name}", self._file)
        app.router.add_get("/v1/policies", self._policies)
        app.router.add_get("/v1/examples", self._examples)
        app.router.add_get("/v1/examples/{id}/image", self._image)
        app.router.add_post("/v1/extract", self._extract)
        return app

    @web.middleware
    async def _around(self, request: web.Request, handler: Any) -> web.StreamResponse:
        open_to_all = not request.path.startswith("/v1/") or request.path == "/v1/policies"
        if self.token and not open_to_all and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self._refuse(problem("unauthorized", 401, "Send the service's token."))
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _file(self, request: web.Request) -> web.Response:
        found = service_files().get(request.match_info.get("name", INDEX))
        if found is None:
            raise web.HTTPNotFound
        return web.Response(body=found.content, headers={**SECURITY_HEADERS, "Content-Type": found.media_type})

    async def _policies(self, request: web.Request) -> web.Response:
        return web.json_response({"policies": self.policies, "limits": LIMITS, "token": bool(self.token)})

    async def _examples(self, request: web.Request) -> web.Response:
        told = [{**one, "image": f"/v1/examples/{one['id']}/image"} for one in self.examples]
        return web.json_response({"examples": told})

    async def _image(self, request: web.Request) -> web.Response:
        return web.Response(body=png(board_picture(BOARD)), content_type="image/png")

    def _refuse(self, answer: Answer) -> web.Response:
        told = answer.problem or {}
        return web.Response(
            text=json.dumps(told),
            status=told["status"],
            headers=answer.headers,
            content_type="application/problem+json",
        )

    async def _extract(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        try:
            read_extract(asked, _READER)
        except Problem as refused:
            return self._refuse(problem("invalid", 422, refused.detail, about=refused.field))
        self.asked.append(asked)
        name = asked["options"]["policy"]
        scripted = self._scripts.get(name)
        answer = scripted.pop(0) if scripted else Answer(events_of(usual_result(asked["text"], name or "a")))
        if answer.problem is not None:
            return self._refuse(answer)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        try:
            for step in answer.steps:
                if isinstance(step, Gate):
                    await step.wait()
                elif isinstance(step, Drop):
                    if request.transport is not None:
                        request.transport.abort()
                    return response
                else:
                    await response.write(step)
        except (ConnectionError, asyncio.CancelledError):
            self.aborted.set()
            raise
        return response


def usual_result(text: str, name: str = "a") -> dict[str, Any]:
    """What the stub answers by itself: of the usual post three entities, two of them searched for."""
    entities = [
        entity(text, "Lodamo", "PER", [0, 0, 28, 28]),
        entity(text, "Bakedo", "ORG", [28, 28, 56, 56], searched=True),
        entity(text, "Tiraso", "LOC", None, searched=True),
    ]
    thumbnail = "data:image/png;base64," + _base64(png(look_picture("green cross")))
    images = [{"width": 56, "height": 56, "thumbnail": thumbnail}]
    searches = [
        search_of("Bakedo", "Bakedo is a ORG , a green cross", images=images),
        search_of("Tiraso", "", status="failed", reason="timeout"),
    ]
    return result_of(text, [one for one in entities if one["span"]], searches=searches, name=name)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@asynccontextmanager
async def serve(stub: ServiceStub, port: int = 0) -> AsyncIterator[ServiceStub]:
    """The stub on a port, or on a free one."""
    runner = web.AppRunner(stub.app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    stub.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield stub
    finally:
        await runner.cleanup()
