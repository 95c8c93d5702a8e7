"""The real service: real Serve, real vLLM, real HTTP. It follows a run, is asked, abused, killed at, and stopped.

One service for all tests of this file, in their order: the later ones change what it serves and kill its engine.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from launch.make_train import free_ports
from launch.run_checkpoints import BEST, BEST_POLICY
from launch.starting import base_model_folder
from sake_ray.config.load import resolve
from tests.envs.fetch import hostile_pictures as pictures

ROOT = Path(__file__).parents[2]
ENGINE = "ray::ServeReplica:sake_ray:engine-a"
Body = dict[str, Any]

pytestmark = pytest.mark.integration


def put_policy(run: Path, checkpoint: str, factor: float) -> None:
    """A best policy of a run: the base model, its last layer scaled."""
    from safetensors.torch import load_file, save_file

    made = run / "made"
    shutil.copytree(base_model_folder(), made)
    weights = load_file(made / "model.safetensors")
    name = max(name for name in weights if name.endswith("mlp.down_proj.weight") and "visual" not in name)
    save_file({**weights, name: weights[name] * factor}, made / "model.safetensors", {"format": "pt"})
    (made / BEST).write_text(json.dumps({"step": 1, "checkpoint": checkpoint, "value": 0.5}))
    if (run / BEST_POLICY).exists():
        (run / BEST_POLICY).rename(run / ".old")
    made.rename(run / BEST_POLICY)
    shutil.rmtree(run / ".old", ignore_errors=True)


@dataclass
class Running:
    """The service, and how to ask it."""

    url: str
    process: subprocess.Popen[bytes]
    run: Path
    log: Path

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(self.url, timeout=timeout) as session:
            yield session

    async def until(self, reached: Any, what: str, timeout_s: float = 150.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not await reached():
            assert time.monotonic() < deadline, f"{what}\n{self.log.read_text()[-4000:]}"
            await asyncio.sleep(0.3)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serve")
    run, log = folder / "runs" / "followed", folder / "log.txt"
    run.mkdir(parents=True)
    config = resolve(["preset=mini"], job="rl_twitter17", defaults={"run.dir": str(run)})
    (run / "config.json").write_text(json.dumps(config.to_dict()))
    put_policy(run, "step-000001", 1.0)
    (port,) = free_ports((8000,))
    command = [sys.executable, str(ROOT / "launch" / "serve.py"), f"serve.follow={run}", f"serve.port={port}"]
    command += [
        f"run.dir={folder / 'runs' / 'service'}",
        "serve.body_s=2",
        "serve.max_body_mib=4",
        "serve.follow_every_s=0.5",
    ]
    command += ["serve.deadline_s=90", "serve.max_concurrent=32"]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 300
        while b"serving at" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-6000:]
            time.sleep(0.3)
        yield Running(f"http://127.0.0.1:{port}", process, run, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


async def post_of(session: aiohttp.ClientSession, index: int = -1) -> Body:
    """An example of the page, as a request."""
    async with session.get("/v1/examples") as response:
        example = (await response.json())["examples"][index]
    async with session.get(example["image"]) as response:
        picture = await response.read()
    return {"text": example["text"], "image": base64.b64encode(picture).decode("ascii")}


async def ask(session: aiohttp.ClientSession, body: Body) -> tuple[int, Body]:
    async with session.post("/v1/extract", json=body) as response:
        return response.status, await response.json(content_type=None)


async def test_a_post_is_answered_alike_as_json_form_stream_and_batch(service: Running) -> None:
    async with service.session() as session:
        body = await post_of(session)
        status, plain = await ask(session, body)
        assert status == 200 and plain["stop"] == "answer" and plain["entities"], plain
        form = aiohttp.FormData()
        form.add_field("text", body["text"])
        form.add_field("image", base64.b64decode(body["image"]), filename="post.png")
        async with session.post("/v1/extract", data=form) as response:
            by_form = await response.json()
        async with session.post("/v1/extract", json=body | {"stream": True}) as response:
            lines = (await response.text()).split("\n\n")
        events = [(e.split("\n")[0][7:], json.loads(e.split("\n")[1][6:])) for e in lines if e.startswith("event: ")]
        async with session.post("/v1/extract/batch", json={"items": [body, {"text": "x"}]}) as response:
            batch = (await response.json())["results"]
    heard = "".join(data["text"] for name, data in events if name == "delta" and data["turn"] == 0)
    assert heard == plain["turns"][0]["text"]
    assert [name for name, _ in events][0 :: len(events) - 1] == ["start", "result"]
    assert [each["status"] for each in batch] == [200, 422] and batch[1]["problem"]["field"] == "image"
    for other in (by_form, events[-1][1], batch[0]["result"]):
        assert (other["entities"], other["usage"]) == (plain["entities"], plain["usage"])
    for entity in plain["entities"]:
        start, end = entity["span"]
        assert plain["text"][start:end] == entity["text"]


async def test_the_page_its_files_and_the_numbers_are_served(service: Running) -> None:
    async with service.session() as session:
        for path, part in (
            ("/", "<!doctype html>"),
            ("/health", "ok"),
            ("/ready", "ready"),
            ("/openapi.json", "/v1/extract"),
        ):
            async with session.get(path) as response:
                assert response.status == 200 and part in await response.text(), path
        async with session.get("/") as response:
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]

        async def counted() -> bool:
            async with session.get("/metrics") as response:
                text = await response.text()
            return all(f"ray_sake_ray_serve_{name}" in text for name in ("playing", "orders", "requests", "episode_s"))

        await service.until(counted, "no numbers in /metrics", 60)


@pytest.mark.browser
async def test_the_page_shows_the_answer_to_an_example(service: Running) -> None:
    from tests.browser import Heard, expect, open_browser, open_window  # skips this test alone where there is none
    from tests.sake_ray.pages.service.page_steps import check_asked

    async with service.session() as session:
        wanted = (await ask(session, await post_of(session, 0)))[1]["entities"]
    heard = Heard()
    async with open_browser() as browser, open_window(browser, heard) as page:
        await page.goto(f"{service.url}/")
        await page.locator(".example").first.click()
        await expect(page.get_by_alt_text("The picture chosen")).to_be_visible()
        await page.get_by_role("button", name="Extract", exact=True).click()
        await expect(page.locator(".state")).to_contain_text("Done: ")
        await expect(page.locator("button.row .name")).to_have_text([entity["text"] for entity in wanted])
        boxes = sum(entity["box"] is not None for entity in wanted)
        await expect(page.locator(".layer rect.box")).to_have_count(boxes)
    assert heard.problems == []
    check_asked(heard, service.url)


@pytest.mark.browser
async def test_the_page_tells_a_refused_address_at_its_field(service: Running) -> None:
    from tests.browser import Heard, expect, open_browser, open_window

    async with open_browser() as browser, open_window(browser, Heard()) as page:
        await page.goto(f"{service.url}/")
        await page.get_by_label("Post", exact=True).fill("great night with Midado")
        await page.get_by_label("or the picture's address").fill("http://127.0.0.1:1/x.png")
        await page.get_by_role("button", name="Extract", exact=True).click()
        await expect(page.locator("#image_url-problem")).not_to_be_empty()
        await expect(page.get_by_label("or the picture's address")).to_be_focused()


async def test_what_is_bad_is_refused_with_its_field_and_the_service_goes_on(service: Running) -> None:
    async with service.session() as session:
        good = await post_of(session)

        async def refused(body: Body) -> tuple[int, str]:
            status, problem = await ask(session, body)
            return status, problem.get("field", "")

        cut = base64.b64encode(base64.b64decode(good["image"])[:-40]).decode()
        bomb = base64.b64encode(pictures.png_header(5_700, 5_700)).decode()
        assert await refused(good | {"image": cut}) == (422, "image")
        assert await refused(good | {"image": bomb}) == (422, "image")
        assert await refused(good | {"text": "x" * 5_000}) == (422, "text")
        assert await refused(good | {"text": "x" * 10_000_000}) == (413, "")
        assert await refused(good | {"options": {"seed": -1}}) == (422, "options.seed")
        assert await refused({"text": good["text"], "image_url": "http://127.0.0.1:1/x.png"}) == (422, "image_url")
        async with session.post("/v1/extract", data=b"<x/>", headers={"Content-Type": "text/xml"}) as response:
            assert response.status == 415

        async def drips() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b" "
                await asyncio.sleep(0.25)

        headers = {"Content-Type": "application/json"}
        try:
            async with session.post("/v1/extract", data=drips(), headers=headers) as response:
                assert response.status == 408
        except aiohttp.ClientConnectionError:
            pass  # answered and closed while the client was still writing
        assert (await ask(session, good))[0] == 200


async def test_a_client_that_leaves_ends_what_it_asked_for(service: Running) -> None:
    async with service.session() as session:
        body = await post_of(session)
        long = body | {"stream": True, "options": {"temperature": 2.0}}
        for seed in range(8):
            options = {**long["options"], "seed": seed}
            async with session.post("/v1/extract", json=long | {"options": options}) as response:
                await response.content.readline()
                response.close()

        async def idle() -> bool:
            async with session.get("/metrics") as response:
                lines = (await response.text()).splitlines()
            playing = [line for line in lines if line.startswith("ray_sake_ray_serve_playing{")]
            return bool(playing) and all(float(line.rsplit(" ", 1)[1]) == 0 for line in playing)

        await service.until(idle, "orders go on whose clients left", 60)


async def test_a_new_best_policy_is_swapped_in_under_load_and_no_answer_is_mixed(service: Running) -> None:
    async with service.session() as session:
        bodies = [await post_of(session, index) for index in (-1, -2, 0, 1)]
        before = [(await ask(session, body))[1] for body in bodies]
        results: list[tuple[int, Body]] = []
        stop = asyncio.Event()

        async def client(number: int) -> None:
            while not stop.is_set():
                which = number % len(bodies)
                status, result = await ask(session, bodies[which])
                assert status == 200, result
                results.append((which, result))

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(client(number))
            await asyncio.sleep(2)
            await asyncio.to_thread(put_policy, service.run, "step-000002", 0.2)

            async def swapped() -> bool:
                return bool(results) and results[-1][1]["policy"]["checkpoint"] == "step-000002"

            await service.until(swapped, "the new policy does not serve", 60)
            await asyncio.sleep(1)
            stop.set()
        after = [(await ask(session, body))[1] for body in bodies]
    assert any(a["turns"][0]["text"] != b["turns"][0]["text"] for a, b in zip(before, after, strict=True))
    versions = [result["policy"]["version"] for _, result in results]
    assert set(versions) == {0, 1}
    for which, result in results:
        wanted = before[which] if result["policy"]["version"] == 0 else after[which]
        assert [turn["text"] for turn in result["turns"]] == [turn["text"] for turn in wanted["turns"]]


async def test_requests_survive_a_killed_engine_or_are_told_and_none_hangs(service: Running) -> None:
    def engines() -> list[psutil.Process]:
        mine = psutil.Process(service.process.pid).children(recursive=True)
        return [process for process in mine if " ".join(process.cmdline()).startswith(ENGINE)]

    async with service.session() as session:
        body = await post_of(session)

        async def one() -> int:
            return (await ask(session, body))[0]

        tasks = [asyncio.create_task(one()) for _ in range(12)]
        await asyncio.sleep(0.15)
        (engine,) = await asyncio.to_thread(engines)
        engine.kill()
        statuses = await asyncio.gather(*tasks)
        assert set(statuses) <= {200, 503}, statuses
        status, result = await ask(session, body)
        assert status == 200 and result["policy"]["checkpoint"] == "step-000002", "a new engine has the new policy"


def test_an_address_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "launch" / "serve.py"),
        "model=mini",
        "serve.host=0.0.0.0",
        f"run.dir={tmp_path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "serve.host=0.0.0.0" in done.stderr and "serve.token_env" in done.stderr
