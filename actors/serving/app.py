"""The service's HTTP: routes, server-sent events, OpenAPI, the page.

Knows nothing of engines or Ray. Always holds: a request to /v1/extract has a place from its first byte on or is refused
at once; a stream ends with `result` or `error`; when the client leaves, what it asked for is ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import ExitStack, aclosing
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from actors.serving.bodies import FORM, JSON, read_asked, read_body
from actors.serving.desk import Desk
from actors.serving.examples import Examples
from envs.fetch.picture import MAX_PIXELS
from sake_ray.pages.service_files import INDEX, service_files
from sake_ray.serving.messages import Event
from sake_ray.serving.problems import MEDIA_TYPE, Problem
from sake_ray.serving.request import Asked, BatchBody, ExtractBody, read_batch, read_json

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 10.0
_CODES = {404: "not-found", 405: "method"}

Metrics = Callable[[], Awaitable[str]]
"""The service's numbers in Prometheus' text form."""


def build_app(desk: Desk, examples: Examples, metrics: Metrics, *, body_s: float, token: bool) -> FastAPI:
    """The app, without its guard."""
    app = FastAPI(
        title="sake_ray", version="1", docs_url=None, redoc_url=None,
        description="Entities of a social-media post, with their boxes in its picture, searched for where need be.",
    )  # fmt: skip
    _add_api(app, desk, body_s)
    _add_looks(app, desk, examples, metrics, token)
    _add_page(app)

    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return _problem(error)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _problem(Problem(_CODES.get(error.status_code, "bad-request"), str(error.detail)), error.headers)

    async def fault(request: Request, error: Exception) -> Response:
        logger.error("a request to %s failed", request.url.path, exc_info=error)
        return _problem(Problem("internal", "a fault of the service; its log says more"))

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, fault)
    return app


def _add_api(app: FastAPI, desk: Desk, body_s: float) -> None:
    @app.post("/v1/extract", openapi_extra=_body(ExtractBody, form=True), responses=_answers("entities and trace"))
    async def extract(request: Request) -> Response:
        """Find the entities of a post; with `stream`, server-sent events turn by turn."""
        with ExitStack() as stack:
            stack.enter_context(desk.place())
            asked = await read_asked(request, desk.limits, body_s)
            if not asked.stream:
                return _json(await _unless_gone(request, desk.answer(asked)))
            return _Stream(_lines(desk, asked), stack.pop_all())

    @app.post("/v1/extract/batch", openapi_extra=_body(BatchBody), responses=_answers("one result or problem an item"))
    async def batch(request: Request) -> Response:
        """Find the entities of several posts."""
        with desk.place():
            body = await read_body(request, desk.limits, body_s)
        items = read_batch(await asyncio.to_thread(read_json, body, desk.limits), desk.limits)
        return _json({"results": await _unless_gone(request, desk.batch(items))})


def _add_looks(app: FastAPI, desk: Desk, examples: Examples, metrics: Metrics, token: bool) -> None:
    @app.get("/v1/policies")
    async def policies() -> Response:
        """The policies that are served, and what a request may be."""
        limits = desk.limits
        shown = {
            "max_text_chars": limits.max_text_chars, "max_body_bytes": limits.max_body_bytes,
            "max_image_pixels": MAX_PIXELS,
            "text_searches": limits.text_searches, "image_searches": limits.image_searches,
            "max_deadline_s": limits.deadline_s, "max_batch": limits.max_batch,
        }  # fmt: skip
        cards = [card.shown() for card in await desk.cards()]
        return _json({"policies": cards, "limits": shown, "token": token})

    @app.get("/v1/examples")
    async def listed() -> Response:
        """Posts to try."""
        return _json({"examples": examples.shown()})

    @app.get("/v1/examples/{name}/image")
    async def picture(name: str) -> Response:
        """An example's picture."""
        found = examples.picture(name)
        if found is None:
            raise Problem("not-found", "no such example")
        return Response(found.data, media_type=found.media_type, headers={"Cache-Control": "private, max-age=300"})

    @app.get("/health")
    async def health() -> Response:
        """Whether this process answers."""
        return _json({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        """Whether every policy has an engine that answers."""
        await desk.cards()
        return _json({"status": "ready"})

    @app.get("/metrics")
    async def numbers() -> Response:
        """Numbers of the whole service, for Prometheus."""
        return Response(await metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    files = service_files()

    def served(name: str) -> Response:
        file = files.get(name)
        if file is None:
            raise Problem("not-found", "no such file")
        return Response(file.content, media_type=file.media_type, headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return served(INDEX)

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        return served(name)


async def _unless_gone(request: Request, answer: Any) -> Any:
    """The answer; when the client leaves before it is there, it is ended."""
    task = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Problem("bad-request", "the client left")
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.wait({task, leaving})


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Stream(StreamingResponse):
    """Server-sent events; a place is held until they are out or the client has left, however early."""

    def __init__(self, lines: AsyncGenerator[bytes, None], place: ExitStack) -> None:
        super().__init__(lines, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._lines = lines
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            async with aclosing(self._lines):
                await super().__call__(scope, receive, send)


async def _lines(desk: Desk, asked: Asked) -> AsyncGenerator[bytes, None]:
    """The events of a request, as they go over the wire, with a sign of life in the pauses.

    The work is a task of its own, and never waits for the client: its deadline must not strike while it does. An
    episode's events are few.
    """
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    work = asyncio.create_task(_pump(desk, asked, events))
    try:
        while True:
            try:
                event = await asyncio.wait_for(events.get(), _KEEP_ALIVE_S)
            except TimeoutError:
                yield b": still at work\n\n"
                continue
            if event is None:
                return
            yield f"event: {event.name}\ndata: {json.dumps(event.data)}\n\n".encode()
    finally:
        work.cancel()
        await asyncio.wait({work})


async def _pump(desk: Desk, asked: Asked, events: asyncio.Queue[Event | None]) -> None:
    try:
        async with aclosing(desk.follow(asked)) as following:
            async for event in following:
                events.put_nowait(event)
    except Problem as problem:
        events.put_nowait(Event("error", problem.shown()))
    except Exception:  # the process boundary: a stream must end with a word to the client
        logger.exception("a streamed request failed")
        events.put_nowait(Event("error", Problem("internal", "a fault of the service; its log says more").shown()))
    finally:
        events.put_nowait(None)


def _problem(problem: Problem, more: Mapping[str, str] | None = None) -> Response:
    return _json(problem.shown(), problem.status, {**problem.headers, **(more or {})}, MEDIA_TYPE)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None, media_type: str = JSON) -> Response:
    """A JSON answer, in ASCII: what the web was searched for may have half characters, which UTF-8 has not."""
    return Response(json.dumps(value), status, headers, media_type)


def _body(model: type[Any], *, form: bool = False) -> dict[str, Any]:
    """The body of a route in OpenAPI's form: it is read by hand, so FastAPI cannot know it."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    content: dict[str, Any] = {JSON: {"schema": _inlined(schema, definitions)}}
    if form:
        properties = {
            "text": {"type": "string"}, "image": {"type": "string", "format": "binary"},
            "image_url": {"type": "string"}, "options": {"type": "string", "description": "JSON"},
            "stream": {"type": "string", "enum": ["true", "false"]},
        }  # fmt: skip
        content[FORM] = {"schema": {"type": "object", "required": ["text"], "properties": properties}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[str(schema["$ref"]).rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _answers(words: str) -> dict[int | str, dict[str, Any]]:
    problem: dict[str, Any] = {"description": "a problem (RFC 9457)", "content": {MEDIA_TYPE: {}}}
    return {200: {"description": words}, **dict.fromkeys((400, 401, 408, 413, 415, 422, 429, 503, 504), problem)}
