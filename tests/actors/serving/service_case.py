"""The service without Ray: the app behind its guard, over engines that do what they are told, and a client of ASGI.

The client speaks ASGI itself, as servers do: it can send slowly, leave at any moment, and read events as they come.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from actors.serving.app import build_app
from actors.serving.desk import Desk, EngineGone
from actors.serving.examples import ExamplePost, Examples
from actors.serving.guard import Guard
from envs.fetch.fetcher import PictureFetcher
from sake_ray.serving.messages import Event, Order, PolicyCard
from sake_ray.serving.request import RequestLimits
from tests.envs.fetch import hostile_pictures as pictures

TOKEN = "a-token-of-a-good-length"
LIMITS = RequestLimits(max_text_chars=50, max_body_bytes=200_000, max_batch=4, deadline_s=30.0)
PICTURE = pictures.encoded(pictures.photo(), "PNG")
POST: dict[str, Any] = {"text": "Ada meets Bo", "image": base64.b64encode(PICTURE).decode()}
MAX_PIXELS = 1_200


class FakeEngines:
    """Takes the next scripted end of an order: result, late, refused, gone, crash, hang, talk (much,
    then hang) or nothing (just stops)."""

    def __init__(self, name: str = "a") -> None:
        self.policy = PolicyCard(name, f"run-{name}/best_policy", "/secret/folder", "step-000007", 4)
        self.ends: list[str] = []
        self.orders: list[Order] = []
        self.under_way = 0
        self.cancelled = 0
        self.ready = True
        self.begun = asyncio.Event()
        self.going = asyncio.Event()
        self.going.set()
        self.most = 0

    async def play(self, order: Order) -> Event:
        events = [event async for event in self.events(order)]
        return events[-1]

    async def events(self, order: Order) -> AsyncGenerator[Event, None]:
        end = self.ends.pop(0) if self.ends else "result"
        self.orders.append(order)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            yield Event("start", {"id": order.id, "policy": self.policy.shown(), "image": {}})
            yield Event("delta", {"turn": 0, "text": "line\nline"})
            self.begun.set()
            await self.going.wait()
            if end == "gone":
                raise EngineGone("killed by the test")
            if end == "crash":
                raise RuntimeError("a bug, told nobody: /secret/folder")
            for _ in range(600 if end == "talk" else 0):
                yield Event("delta", {"turn": 0, "text": "more"})
            if end in ("hang", "talk"):
                await asyncio.Event().wait()
            if end == "result":
                yield Event("result", result_of(order, self.policy))
            elif end != "nothing":
                yield Event(end, {"detail": "too long", "field": "text"} if end == "refused" else {})
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1

    async def card(self) -> PolicyCard:
        if not self.ready:
            raise EngineGone("not yet")
        return self.policy


def result_of(order: Order, policy: PolicyCard) -> dict[str, Any]:
    """A result; what the web was searched for may hold half a character."""
    return {
        "id": order.id, "policy": policy.shown(), "text": order.example.text, "entities": [], "stop": "answer",
        "image": {"width": order.width, "height": order.height}, "turns": [{"search": "half \ud83d"}],
        "seconds": {"wait": 0.0, "generate": 0.0, "search": 0.0, "total": 0.0}, "seed": order.seed,
    }  # fmt: skip


@dataclass
class Service:
    """The whole service, with its parts at hand; `counted` is what its guard counted."""

    desk: Desk
    app: Guard
    engines: dict[str, FakeEngines]
    counted: list[tuple[str, int]] = field(default_factory=list)

    @property
    def first(self) -> FakeEngines:
        return next(iter(self.engines.values()))

    def places(self) -> int:
        """How many requests it would take now."""
        with self.desk.place(1_000) as got:
            return got


def make_service(
    *,
    token: str = "",
    places: int = 3,
    names: Iterable[str] = ("a",),
    fetcher: PictureFetcher | None = None,
    limits: RequestLimits = LIMITS,
    body_s: float = 5.0,
) -> Service:
    engines = {name: FakeEngines(name) for name in names}
    desk = Desk(dict(engines), limits, max_concurrent=places, max_pixels=MAX_PIXELS, fetcher=fetcher)
    examples = Examples([ExamplePost("try me", PICTURE, "image/png", "MiniWorld", "easy")])

    async def metrics() -> str:
        return "# HELP ours\n"

    counted: list[tuple[str, int]] = []
    app = build_app(desk, examples, metrics, body_s=body_s, token=bool(token))
    guard = Guard(app, token, lambda route, status, seconds: counted.append((route, status)))
    return Service(desk, guard, engines, counted)


@dataclass
class Answer:
    """What came of a request; `raised` is what a server would have logged."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raised: Exception | None = None

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[tuple[str, Any]]:
        """A stream's events; fails on what is no event of one data line."""
        blocks = [block for block in self.body.decode().split("\n\n") if block and not block.startswith(":")]
        lines = [block.split("\n") for block in blocks]
        return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in lines]


async def ask(
    service: Service,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    pieces: AsyncIterator[bytes] | None = None,
    leave: asyncio.Event | None = None,
    leave_after: int | None = None,
    spec: str = "2.3",
    reads: asyncio.Event | None = None,
    **content: Any,
) -> Answer:
    """One request; `content` is httpx's (json, data, files, content), or `pieces` come as the body.

    The client leaves when `leave` is set, or after it was sent `leave_after` messages; it takes nothing of the
    body before `reads` is set. With `spec` 2.4 the server says
    so by failing sends, before that by a message.
    """
    if "json" in content:  # httpx would refuse half a character
        content["content"] = json.dumps(content.pop("json")).encode()
        headers = {"content-type": "application/json", **(headers or {})}
    request = httpx.Request(method, f"http://localhost:8000{path}", headers=headers, **content)
    # Headers that were given override those that httpx makes.
    given = {name.lower() for name in headers or {}}
    raw = [(name.lower(), value) for name, value in request.headers.raw]
    raw = [
        (n, v) for n, v in raw if n != b"transfer-encoding" and not (pieces and n == b"content-length" and not given)
    ]
    answer, gone = Answer(), leave or asyncio.Event()
    body = [request.read()] if pieces is None else None
    over = asyncio.Event()
    sent = 0

    async def receive() -> dict[str, Any]:
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": False}
        if pieces is not None:
            async for piece in pieces:
                return {"type": "http.request", "body": piece, "more_body": True}
            if not over.is_set():
                over.set()
                return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal sent
        if leave_after == sent:
            gone.set()
        sent += 1
        await asyncio.sleep(0)
        if reads is not None and sent > 1:
            await reads.wait()
        if gone.is_set():
            if spec == "2.4":
                raise OSError("the client left")
            return
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    url = request.url
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": spec}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": url.path, "raw_path": url.raw_path, "query_string": url.query, "root_path": "",
        "headers": raw, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    try:
        async with asyncio.timeout(20):
            await service.app(scope, receive, send)
    except Exception as error:  # noqa: BLE001  # the server's boundary, which this stands for
        answer.raised = error
    return answer


def post(**change: Any) -> dict[str, Any]:
    return {**POST, **change}


def limits(**change: Any) -> RequestLimits:
    return replace(LIMITS, **change)
