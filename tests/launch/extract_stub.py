"""A small server that speaks the service's contract on /v1/extract, as a test scripts it."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

from sake_ray.serving.problems import MEDIA_TYPE, Problem


@dataclass
class Form:
    """A request as it came."""

    text: str
    image: bytes
    options: dict[str, Any]
    headers: dict[str, str]


Said = dict[str, Any] | Problem | web.Response
Answer = Callable[[Form], Said]


@dataclass
class ExtractStub:
    """Answers by `answer`, and remembers what was asked."""

    answer: Answer = field(default_factory=lambda: lambda form: result_of(form))
    asked: list[Form] = field(default_factory=list)

    async def extract(self, request: web.Request) -> web.StreamResponse:
        data = await request.post()
        image = data["image"]
        assert isinstance(image, web.FileField) and set(data) == {"text", "image", "options"}
        form = Form(str(data["text"]), image.file.read(), json.loads(str(data["options"])), dict(request.headers))
        self.asked.append(form)
        said = self.answer(form)
        if isinstance(said, Problem):
            again = {} if said.retry_s is None else {"Retry-After": f"{said.retry_s:.0f}"}
            return web.json_response(said.shown(), status=said.status, headers=again, content_type=MEDIA_TYPE)
        return web.json_response(said) if isinstance(said, dict) else said

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/extract", self.extract)
        return app


def result_of(form: Form) -> dict[str, Any]:
    """A whole result: the post's first word is a person in the picture's middle, which was searched."""
    with Image.open(io.BytesIO(form.image)) as picture:
        width, height = picture.size
    name = form.text.split()[0]
    turn = {"reasoning": f"{name} unknown", "malformed": None, "prompt_tokens": 9, "tokens": 3, "generate_s": 0.1}
    found = {"query": name, "status": "success", "reason": None, "text": f"{name} is a PER", "cached": False}
    search = {"kind": "text", "seconds": 0.1, "results": [{**found, "images": []}]}
    box = [width // 4, height // 4, width // 2, height // 2]
    return {
        "id": "r-0",
        "policy": {"name": "a", "model": "run/best_policy", "checkpoint": "step-000020", "version": 0},
        "text": form.text,
        "image": {"width": width, "height": height},
        "entities": [{"text": name, "type": "PER", "span": [0, len(name)], "box": box, "searched": True}],
        "stop": "answer",
        "turns": [
            {**turn, "index": 0, "text": "<reason>…", "action": "text_search", "search": search},
            {**turn, "index": 1, "text": "<answer>…", "action": "answer", "search": None},
        ],
        "usage": {"prompt_tokens": 18, "generated_tokens": 6, "searches": 1, "queries": 1},
        "seconds": {"wait": 0.0, "generate": 0.2, "search": 0.1, "total": 0.3},
        "seed": form.options["seed"],
    }


@contextmanager
def running(stub: ExtractStub) -> Iterator[str]:
    """The stub at an address, in a thread of its own."""
    loop, up = asyncio.new_event_loop(), threading.Event()
    address: list[str] = []

    async def serve() -> web.AppRunner:
        runner = web.AppRunner(stub.app())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append("http://{}:{}".format(*runner.addresses[0][:2]))
        up.set()
        return runner

    def work() -> None:
        runner = loop.run_until_complete(serve())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def write_picture(path: Path, size: tuple[int, int] = (84, 56), colour: str = "#e0e0e0") -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path
