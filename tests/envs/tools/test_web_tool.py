"""The whole tool against a real service: what is asked, what is kept in each mode, and what a policy is shown."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import logging
import os
import traceback
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.answers.key import AnswerKey
from envs.answers.store import AnswerStore
from envs.limiter.gate import Gate, OpenGate
from envs.tools.api import ApiSettingsError
from envs.tools.registry import build_web_tool
from envs.tools.secrets import Secret, load_keys
from envs.tools.web_tool import SearchSpent, WebTool, words_asked
from sake_ray.config.search_section import SearchConfig
from sake_ray.types import QueryResult, SearchFailure, SearchKind
from tests.envs.chat_endpoint import Reply, hang, json_reply, raw_reply
from tests.envs.tools.search_service import SERPER_TEXT, Service, by_key, serving, waiting_for
from tests.envs.tools.test_api import RecordingGate

KEY = "planted-key-0123456789abcdef"
TEXT, IMAGE = SearchKind.TEXT, SearchKind.IMAGE


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving() as running:
        yield running


class Tools:
    """Makes tools over one folder, and closes them."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.settings = SearchConfig(provider="serper", endpoint=service.url, retries=0, allow_private=True)
        self._folder = folder
        self._made: list[WebTool] = []

    def make(
        self,
        *,
        gate: Gate | None = None,
        keys: Sequence[Secret] = (),
        trace: Any = None,
        chat: Any = None,
        **changed: Any,
    ) -> WebTool:
        settings = dataclasses.replace(self.settings, **changed)
        store = None
        if settings.cache != "off":
            store = AnswerStore(self._folder, mode=settings.cache, max_bytes=2**30, ttl_s=1e6)
        if not keys and settings.cache != "read_only":
            keys = (Secret(KEY),)
        tool = build_web_tool(
            settings, gate=gate or OpenGate(), keys=keys, store=store, chat=chat, max_pixels=10_000, trace=trace
        )
        self._made.append(tool)
        return tool

    async def close(self) -> None:
        for tool in self._made:
            await tool.close()


@pytest.fixture
async def tools(service: Service, tmp_path: Path) -> AsyncIterator[Tools]:
    made = Tools(service, tmp_path / "cache")
    yield made
    await made.close()


def image_reply(*urls: str) -> Reply:
    return json_reply({"images": [{"imageUrl": url} for url in urls]})


async def test_a_text_is_condensed_kept_and_not_asked_for_again(service: Service, tools: Tools) -> None:
    tool = tools.make()
    assert tool.requests_for(TEXT, "Eiffel Tower") == 1
    (first,) = await tool.search_text("1", ["Eiffel Tower"])
    assert first == QueryResult(
        "Eiffel Tower",
        "success",
        "Eiffel Tower: Tower. A tower in Paris. | Eiffel Tower: It is 330 metres tall. | Gustave: Named after an "
        "engineer.",
    )
    (again,) = await tool.search_text("2", ["  eiffel  TOWER"])
    assert again == dataclasses.replace(first, query="  eiffel  TOWER", cached=True)
    assert tool.requests_for(TEXT, "eiffel tower") == 0
    counts = tool.counts()
    assert [counts[name] for name in ("calls", "hits", "misses", "requests", "latency_le_inf")] == [2, 1, 1, 1, 2]


async def test_pictures_come_in_order_without_broken_ones_and_repeats_the_graphs_first(
    service: Service, tools: Tools
) -> None:
    graph, blue, green = (service.add_picture(f"{color}.png", color) for color in ("white", "blue", "green"))
    again = service.add_picture("again.png", "blue")
    service.pictures["page.jpg"] = b"<html>"
    urls = (f"{service.url}/pictures/gone.png", blue, again, f"{service.url}/pictures/page.jpg", green, graph)
    service.replies = [image_reply(*urls), json_reply({"knowledgeGraph": {"imageUrl": graph}})]
    tool = tools.make(graph_image=True, images_per_query=2)
    result = await tool.answer(IMAGE, "colours", "1")
    assert result.status == "success"
    assert [_color(image.path) for image in result.images] == ["white", "blue", "green"]
    counts = tool.counts()
    assert (counts["pictures"], counts["picture_status"], counts["picture_not_a_picture"]) == (4, 1, 1)


async def test_large_pictures_are_shrunk_and_no_more_are_fetched_than_it_takes(service: Service, tools: Tools) -> None:
    big, other = service.add_picture("big.png", size=(400, 100)), service.add_picture("other.png", "blue")
    service.replies = [image_reply(big, other)]
    (image,) = (await tools.make().answer(IMAGE, "x")).images
    assert (image.width, image.height) == (200, 50)
    assert service.fetched == ["big.png"]


async def test_without_a_cache_pictures_travel_as_bytes(service: Service, tools: Tools) -> None:
    service.replies = [image_reply(service.add_picture("a.png"))]
    tool = tools.make(cache="off")
    first, again = await tool.answer(IMAGE, "x"), await tool.answer(IMAGE, "x")
    assert first == again
    assert first.images[0].data
    assert len(service.asked) == 2


async def test_of_eight_who_ask_the_same_one_asks_the_service(service: Service, tools: Tools) -> None:
    go = asyncio.Event()
    service.replies = [waiting_for(go, json_reply(SERPER_TEXT))]
    tool = tools.make()
    tasks = [asyncio.create_task(tool.answer(TEXT, "x", str(number))) for number in range(8)]
    await service.came.wait()
    tasks[0].cancel()  # the one that began it
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(*tasks[1:])
    assert {result.status for result in results} == {"success"}
    assert len(service.asked) == 1
    assert tool.counts()["shared"] == 7


async def test_a_query_that_nobody_waits_for_any_more_is_given_up(service: Service, tools: Tools) -> None:
    service.replies = [hang]
    gate = RecordingGate()
    tool = tools.make(gate=gate)
    task = asyncio.create_task(tool.answer(TEXT, "x"))
    await service.came.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await tool.close()
    assert gate.outcomes == ["abandoned"]


async def test_a_failure_has_a_reason_and_is_asked_for_again(service: Service, tools: Tools) -> None:
    service.replies = [json_reply({}, 500), raw_reply(b"[]", "application/json"), json_reply({}, 422), hang]
    tool = tools.make(timeout_s=30.0)
    for wanted in (SearchFailure.BROKEN, SearchFailure.BROKEN, SearchFailure.REFUSED):
        assert await tool.answer(TEXT, "x") == QueryResult("x", "failed", reason=wanted)
    assert await tool.answer(TEXT, "x", timeout_s=0.02) == QueryResult("x", "failed", reason=SearchFailure.TIMEOUT)
    assert (await tool.answer(TEXT, " \x00 ")).reason is SearchFailure.REFUSED
    assert len(service.asked) == 4
    counts = tool.counts()
    assert (counts["failed_broken"], counts["failed_refused"], counts["failed_timeout"]) == (2, 2, 1)


async def test_pictures_of_which_none_could_be_had_are_tried_again_at_no_cost(service: Service, tools: Tools) -> None:
    address = f"{service.url}/pictures/late.png"
    service.replies = [image_reply(address)]
    tool = tools.make()
    assert (await tool.answer(IMAGE, "x")).status == "no_result"
    service.add_picture("late.png")
    assert (await tool.answer(IMAGE, "x")).status == "success"
    assert len(service.asked) == 1


ASKED = [(TEXT, "tower"), (TEXT, "broken"), (IMAGE, "pictures"), (TEXT, "slow"), (IMAGE, "nothing")]


async def _ask_all(tool: WebTool) -> list[QueryResult]:
    return [await tool.answer(kind, query, "17_1", 0.05 if query == "slow" else None) for kind, query in ASKED]


async def test_a_recording_is_repeated_with_the_service_gone_failures_included(tmp_path: Path) -> None:
    async with serving() as service:
        tools = Tools(service, tmp_path / "cache")
        shown = image_reply(service.add_picture("a.png"), service.add_picture("b.png", "blue"))
        service.replies = [json_reply(SERPER_TEXT), json_reply({}, 500), shown, hang, image_reply()]
        recorded = await _ask_all(tools.make(cache="record"))
        service.replies = [json_reply(SERPER_TEXT)]
        again = await _ask_all(tools.make(cache="record"))  # the first answers are final
        await tools.close()
    assert [result.reason or result.status for result in recorded] == [
        "success", SearchFailure.BROKEN, "success", SearchFailure.TIMEOUT, "no_result"
    ]  # fmt: skip
    replaying = tools.make(cache="read_only", gate=RecordingGate(0))
    replayed = await _ask_all(replaying)
    assert [dataclasses.replace(result, cached=False) for result in replayed] == recorded
    assert again == replayed
    assert _color(replayed[2].images[0].path) == "red"

    missing = await replaying.answer(IMAGE, "never asked")
    assert missing == QueryResult("never asked", "failed", reason=SearchFailure.NOT_RECORDED)
    counts = replaying.counts()
    assert (counts["not_recorded"], counts["requests"], counts["failed_not_recorded"]) == (1, 0, 1)
    # What was recorded is enough for another way to show texts, but not for a model's summary.
    other = tools.make(cache="read_only", summary="none")
    assert (await other.answer(TEXT, "tower")).text == "It is 330 metres tall."
    await tools.close()


async def test_a_recorded_timeout_stays_though_the_answer_came_for_another(service: Service, tools: Tools) -> None:
    go = asyncio.Event()
    service.replies = [waiting_for(go, json_reply(SERPER_TEXT))]
    tool = tools.make(cache="record")
    patient = asyncio.create_task(tool.answer(TEXT, "x"))
    await service.came.wait()
    late = await tool.answer(TEXT, "x", timeout_s=0.01)
    go.set()
    assert (await patient).reason is late.reason is SearchFailure.TIMEOUT


async def test_a_group_that_asks_is_noted_post_by_post(service: Service, tools: Tools, tmp_path: Path) -> None:
    tool = tools.make(cache="record")
    await asyncio.gather(*(tool.answer(TEXT, "x", post) for post in ("1", "2")))
    await tool.answer(TEXT, "x", "3")
    await tool.close()
    with AnswerStore(tmp_path / "cache", mode="read_only", max_bytes=1, ttl_s=1) as store:
        assert [[kept.key.query for kept in store.asked_by(post)] for post in store.posts()] == [["x"]] * 3


async def test_when_everything_is_spent_the_run_fails_or_the_policy_is_told(service: Service, tools: Tools) -> None:
    service.replies = [json_reply({"message": "Not enough credits"}, 400)]
    with pytest.raises(SearchSpent, match=r"every key is spent; raise search\.daily_budget"):
        await tools.make(gate=RecordingGate()).answer(TEXT, "x")
    tool = tools.make(gate=RecordingGate(), on_spent="unavailable")
    assert (await tool.answer(TEXT, "x")).reason is SearchFailure.UNAVAILABLE
    assert tool.counts()["failed_unavailable"] == 1


async def test_one_spent_key_is_not_the_end(service: Service, tools: Tools) -> None:
    keys = (Secret("planted-spent-key"), Secret(KEY))
    service.replies = [by_key({"planted-spent-key": json_reply({}, 402), KEY: json_reply(SERPER_TEXT)})]
    tool = tools.make(gate=RecordingGate(2), keys=keys)
    assert (await tool.answer(TEXT, "x")).status == "success"
    assert tool.keys == 2


async def test_settings_that_cannot_be_raise_and_tell_what_to_do(service: Service, tools: Tools) -> None:
    service.replies = [json_reply({}, 404)]
    with pytest.raises(ApiSettingsError, match=r"search\.endpoint"):
        await tools.make().search_text("1", ["x", "y"])
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"endpoint": "", "provider": "searxng"}, r"needs search\.endpoint"),
        ({"summary": "llm"}, r"needs search\.summary_endpoint"),
        ({"cache": "/a/folder"}, r"search\.cache='/a/folder'"),
    ]
    for changed, words in wrong:
        with pytest.raises(ValueError, match=words):
            build_web_tool(
                dataclasses.replace(tools.settings, **changed),
                gate=OpenGate(), keys=(Secret(KEY),), store=None, max_pixels=100,
            )  # fmt: skip
    with pytest.raises(ValueError, match="needs a key"):
        build_web_tool(
            dataclasses.replace(tools.settings, cache="off"), gate=OpenGate(), keys=(), store=None, max_pixels=1
        )


async def test_each_step_can_be_told(service: Service, tools: Tools) -> None:
    steps: list[str] = []
    service.replies = [image_reply(service.add_picture("a.png"))]
    tool = tools.make(trace=lambda step, fields: steps.append(step))
    await tool.answer(IMAGE, "x")
    await tool.answer(IMAGE, "x")
    assert steps == ["query", "cache", "request", "hits", "picture", "answer", "query", "cache", "answer"]


async def test_a_stored_answer_of_another_form_is_an_error(tools: Tools, tmp_path: Path, service: Service) -> None:
    tool = tools.make(cache="record")
    await tool.answer(TEXT, "x")
    with AnswerStore(tmp_path / "cache", mode="on", max_bytes=2**30, ttl_s=1e6) as store:
        (kept,) = (kept for kept in store.answers() if kept.key.kind == "text")
        store.put(kept.key, {"status": "fine", "text": "x", "reason": ""})
        assert isinstance(kept.key, AnswerKey)
    with pytest.raises(ValueError, match="no valid status"):
        await tool.answer(TEXT, "x")


async def test_a_failure_stands_in_its_recording_alone(tools: Tools, service: Service) -> None:
    good = service.replies
    service.replies = [json_reply({}, 400)]
    recording = tools.make(cache="record")
    assert (await recording.answer(TEXT, "x")).status == "failed"
    service.replies = good
    assert (await recording.answer(TEXT, "x")).status == "failed"
    assert (await tools.make(cache="on").answer(TEXT, "x")).status == "success"


def test_a_query_is_sent_as_one_plain_line() -> None:
    assert words_asked("  a\n\x00b\ud800 c ") == "a b c"
    assert len(words_asked("x" * 10_000)) == 400


async def test_the_key_shows_up_nowhere(
    service: Service, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SEARCH_KEY", KEY)
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    keys = load_keys("TEST_SEARCH_KEY")
    told: list[str] = []
    echo = {"message": f"bad key {KEY}", "organic": [{"title": KEY, "snippet": f"{KEY} is your key"}]}
    service.replies = [json_reply(echo), json_reply({}, 500), json_reply(echo, 400), json_reply(echo, 403)]
    tool = tools.make(cache="record", keys=keys, gate=RecordingGate(), trace=lambda *step: told.append(repr(step)))
    try:
        results = [await tool.answer(TEXT, query) for query in ("a", "b", "c")]
        with pytest.raises(SearchSpent) as caught:
            await tool.answer(TEXT, "d")
        logging.getLogger("test").error("%s", caught.value, exc_info=caught.value)
        logging.getLogger("test").error("headers %s, key %s", {"X-API-KEY": KEY}, KEY, exc_info=RuntimeError(KEY))
    finally:
        logging.getLogger().removeHandler(handler)
    await tool.close()
    assert [headers["x-api-key"] for headers in service.headers] == [KEY] * 4
    shown = [
        log.getvalue(), repr(told), repr(results), repr(keys), f"{keys[0]}", json.dumps(tool.counts()),
        "".join(traceback.format_exception(caught.value)), repr(vars(tool)),
    ]  # fmt: skip
    assert "***" in shown[0]
    for text in shown:
        assert KEY not in text
    files = [Path(folder) / name for folder, _, names in os.walk(tmp_path) for name in names]
    assert files
    assert not any(KEY.encode() in file.read_bytes() for file in files)


def _color(path: str) -> str:
    """The nearest of the colours that pictures here have: what is kept is a JPEG."""
    with Image.open(path) as found:
        pixel = np.asarray(found.convert("RGB"))[5, 5].astype(int)
    colors = {"white": (255, 255, 255), "red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 128, 0)}
    return min(colors, key=lambda color: int(np.abs(pixel - colors[color]).sum()))
