"""The numbers of several nodes in one text: each family once, all of its lines, and no node that is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from actors.serving import metrics_text
from actors.serving.metrics_text import gather, merged

NAMES = st.sampled_from(["ray_sake_ray_a", "ray_serve_b", "ray_vllm_c", "ray_other", "python_gc"])
VALUES = st.text(st.characters(exclude_characters='"\\\n', codec="utf-8"), max_size=8)
EXPORTS = st.lists(st.dictionaries(NAMES, st.tuples(st.sampled_from(["help", "other help"]), st.lists(VALUES))))


def export(families: dict[str, tuple[str, list[str]]]) -> str:
    return "".join(
        f"# HELP {name} {words}\n# TYPE {name} counter\n"
        + "".join(f'{name}_total{{node="{value}"}} 1.0\n' for value in values)
        for name, (words, values) in families.items()
    )


@given(EXPORTS)
def test_our_families_stand_once_with_the_lines_of_every_node(nodes: list[dict[str, tuple[str, list[str]]]]) -> None:
    lines = merged(export(families) for families in nodes).split("\n")
    wanted = sorted(
        f'{name}_total{{node="{value}"}} 1.0'
        for families in nodes
        for name, (_, values) in families.items()
        for value in values
        if name.startswith(("ray_sake_ray_", "ray_serve_", "ray_vllm_"))
    )
    assert sorted(line for line in lines if line and not line.startswith("#")) == wanted
    heads = [tuple(line.split(" ", 3)[1:3]) for line in lines if line.startswith("#")]
    assert len(heads) == len(set(heads))
    family = ""
    for line in lines[:-1]:
        family = line.split(" ", 3)[2] if line.startswith("#") else family
        assert line.startswith(("#", family)), "a family's lines stand together under its head"


@given(st.text())
def test_any_text_can_be_merged(text: str) -> None:
    assert merged([text]) == "" or "ray_" in text


@asynccontextmanager
async def exporter(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()


async def test_a_long_export_is_read_to_its_end() -> None:
    text = export({"ray_sake_ray_a": ("help", [f"n{number}" for number in range(20_000)])})

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text)

    async with exporter(answer) as address:
        assert await gather([address]) == text


async def test_nodes_that_do_not_answer_are_named_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_text, "_TIMEOUT_S", 0.3)
    monkeypatch.setattr(metrics_text, "_MAX_BYTES", 1_000)

    async def good(request: web.Request) -> web.Response:
        return web.Response(text=export({"ray_serve_b": ("help", ["n1"])}))

    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(20)
        return web.Response()

    async def broken(request: web.Request) -> web.Response:
        return web.Response(status=500)

    async def endless(request: web.Request) -> web.Response:
        return web.Response(text=export({"ray_serve_b": ("help", ["n2"] * 1_000)}))

    async with exporter(good) as a, exporter(slow) as b, exporter(broken) as c, exporter(endless) as d:
        text = await asyncio.wait_for(gather([a, b, c, d, "http://127.0.0.1:1/metrics"]), 5)
    assert [line for line in text.split("\n") if line.startswith("# no answer")] == [
        f"# no answer from {address}" for address in (b, c, d, "http://127.0.0.1:1/metrics")
    ]
    assert 'ray_serve_b_total{node="n1"} 1.0' in text and "n2" not in text
