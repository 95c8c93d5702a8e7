"""Search over HTTP through the pool: a recording is repeated without the service, and keys are nowhere to be found."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import ray
from aiohttp import web
from PIL import Image

from actors.search_build import ToolSpec
from actors.search_pool import PoolSettings, SearchPool
from envs.tools.local import LocalSearchTool
from envs.tools.local_index import Article, build_local_index
from envs.tools.search_server import SearchServer, serving
from sake_ray.config.search_section import SearchConfig
from sake_ray.types import Example, ImageRef, ImageSearch, Observation, SearchFailure, TextSearch
from tests.actors.names import until_free

POSTS = [Example(f"17_{n}", "text", ImageRef("none.png", 40, 40), ()) for n in range(3)]
ACTIONS = (
    TextSearch(("ada", "broken", "nobody at all")),
    ImageSearch(("turing", "nobody at all")),
    ImageSearch(("ada",)),
    TextSearch(("  ADA ",)),
)
KEY = "planted-0123456789abcdef0123456789"


class Moody(SearchServer):
    """Cannot answer one of the queries."""

    async def search(self, request: web.Request) -> web.Response:
        if request.query.get("q") == "broken":
            self.requests += 1
            raise web.HTTPInternalServerError(text="the stack trace of a stranger")
        return await super().search(request)


@pytest.mark.integration
async def test_a_recording_is_repeated_without_the_service_failures_included(local_ray: None, tmp_path: Path) -> None:
    server = Moody(LocalSearchTool(_folder(tmp_path / "folder")), tmp_path / "folder")
    settings = SearchConfig(
        provider="searxng", cache="record", per_second=1000, burst=1000, concurrency=64, retries=1, allow_private=True
    )
    async with serving(server):
        settings = dataclasses.replace(settings, endpoint=server.url)
        first, counts = await _ask_everything(settings, tmp_path / "cache")
    assert server.requests == 3 + 1 + 3, "each query once for three posts, and the broken one again"
    assert [result.status for result in first[0].results] == ["success", "failed", "no_result"]
    assert first[0].results[1].reason is SearchFailure.BROKEN
    assert all(len(answer.results[0].images) == 1 for answer in (first[1], first[2]))
    assert counts["requests"] == server.requests and counts["calls"] == 21 and counts["remembered"] == 0

    again, counts = await _ask_everything(dataclasses.replace(settings, cache="read_only"), tmp_path / "cache")
    assert [_shown(answer) for answer in again] == [_shown(answer) for answer in first]
    assert counts["requests"] == 0


@pytest.mark.integration
async def test_what_is_counted_stands_on_rays_metrics_port(local_ray: None, tmp_path: Path) -> None:
    await until_free("search-0", "search-1")
    settings = SearchConfig(provider="local", root=str(_folder(tmp_path / "folder")))
    pool = SearchPool.start(ToolSpec(settings, "", tmp_path, 1_000_000), PoolSettings(20.0), workers=1)
    await pool.ready()
    await pool.search(POSTS[0], ACTIONS[0])
    wanted = {
        'sake_ray_search_latency_s_count{.*actor="search-0".*provider="local".*} 1',
        'sake_ray_search_searches_total{.*actor="search-0".*} 1',
        'sake_ray_search_pending{.*actor="search-0".*} 0',
    }
    port = ray.nodes()[0]["MetricsExportPort"]
    async with aiohttp.ClientSession() as session:
        for _ in range(60):  # Ray passes metrics on every ten seconds
            async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                page = await response.text()
            missing = {series for series in wanted if not re.search(series, page)}
            if not missing:
                break
            await asyncio.sleep(1)
    await pool.shutdown()
    assert not missing


@pytest.mark.integration
async def test_a_key_is_used_and_found_nowhere(local_ray: None, tmp_path: Path) -> None:
    key_file = tmp_path / "secret" / "keys"
    key_file.parent.mkdir()
    key_file.write_text(f"{KEY}\n")
    key_file.chmod(0o600)
    used: list[str] = []
    async with _serper(used) as url:
        settings = SearchConfig(provider="serper", endpoint=url, key_file=str(key_file), on_spent="unavailable")
        answers, _ = await _ask_everything(settings, tmp_path / "cache")
    assert KEY in used
    assert {result.reason for answer in answers for result in answer.results} == {SearchFailure.UNAVAILABLE}
    session = Path(ray.get_runtime_context().gcs_address and ray._private.worker._global_node.get_session_dir_path())
    files = [path for folder in (tmp_path / "cache", session) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in repr(settings)


async def _ask_everything(settings: SearchConfig, cache: Path) -> tuple[list[Observation], dict[str, float]]:
    await until_free("search-0", "search-1")
    spec = ToolSpec(settings, "", cache, 1_000_000)
    pool = SearchPool.start(spec, PoolSettings(20.0, per_query=spec.web), workers=2)
    try:
        await pool.ready()
        asked = [pool.search(post, action) for post in POSTS for action in ACTIONS]
        return list(await asyncio.gather(*asked)), await pool.counts()
    finally:
        await pool.shutdown()


def _shown(answer: Observation) -> list[tuple[object, ...]]:
    """All that a policy could tell apart."""
    return [
        (r.query, r.status, r.reason, r.text, [(i.width, i.height, Path(i.path).read_bytes()) for i in r.images])
        for r in answer.results
    ]


@asynccontextmanager
async def _serper(used: list[str]) -> AsyncIterator[str]:
    async def refuse(request: web.Request) -> web.Response:
        used.append(request.headers.get("X-API-KEY", ""))
        return web.json_response({"message": f"Not enough credits for {used[-1]}"}, status=400)

    app = web.Application()
    app.router.add_post("/search", refuse)
    app.router.add_post("/images", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def _folder(folder: Path) -> Path:
    def picture(colour: str) -> bytes:
        data = io.BytesIO()
        Image.new("RGB", (64, 48), colour).save(data, "PNG")
        return data.getvalue()

    articles = [
        Article("Ada", "Ada is a mathematician.", (picture("red"),)),
        Article("Turing", "Turing is a logician.", (picture("blue"),)),
    ]
    build_local_index(folder, articles)
    return folder
