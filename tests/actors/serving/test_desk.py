"""The desk: places, one deadline, other engines for lost ones; whatever happens, a request gives its place back."""

from __future__ import annotations

import asyncio
import io
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actors.serving import desk as desk_module
from sake_ray.serving.problems import Problem
from sake_ray.serving.request import Asked, read_extract
from tests.actors.serving.service_case import LIMITS, Service, ask, make_service, post
from tests.envs.fetch import hostile_pictures as pictures

ENDS = ["result", "late", "refused", "gone", "crash", "nothing"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "_PAUSE_S", 0.0)
    monkeypatch.setattr(desk_module, "_GRACE_S", 0.01)


def asked_of(**options: Any) -> Asked:
    return read_extract(post(options=options), LIMITS)


async def names_of(service: Service, asked: Asked) -> list[str]:
    async with aclosing(service.desk.follow(asked)) as events:
        return [event.name async for event in events]


async def test_places_are_given_while_there_are_some_and_come_back() -> None:
    desk = make_service(places=3).desk
    with desk.place(2) as two, desk.place(5) as one:
        assert (two, one) == (2, 1)
        with pytest.raises(Problem) as refused, desk.place():
            pass
        assert (refused.value.status, refused.value.retry_s is not None) == (429, True)
    with desk.place(5) as all_of_them:
        assert all_of_them == 3


async def test_an_order_carries_what_was_asked_and_the_size_of_the_clients_picture() -> None:
    service = make_service(names=("a", "b"))
    asked = asked_of(policy="b", seed=9, temperature=0.5, image_searches=0, deadline_s=20, thumbnails=False)
    result = await service.desk.answer(asked)
    (order,) = service.engines["b"].orders
    assert (order.seed, order.temperature, order.text_searches, order.image_searches) == (9, 0.5, 1, 0)
    assert (order.thumbnails, order.streamed, order.example.text) == (False, False, "Ada meets Bo")
    assert 0 < order.deadline_s <= 20
    assert (order.width, order.height) == (60, 40), "of the client's picture"
    sent = order.example.image
    assert sent.data is not None and sent.width * sent.height <= 1_200 < 60 * 40, "of the one that the engine gets"
    with Image.open(io.BytesIO(sent.data)) as image:
        assert (image.size, image.format) == ((sent.width, sent.height), "PNG")
    assert result["seconds"]["total"] >= result["seconds"]["wait"] > 0
    assert not service.engines["a"].orders


async def test_a_lost_engine_costs_two_tries_with_the_same_seed_and_no_more() -> None:
    service = make_service()
    service.first.ends = ["gone", "gone", "result"]
    await service.desk.answer(asked_of(seed=3))
    orders = service.first.orders
    assert len(orders) == 3 and {(order.id, order.seed, order.example) for order in orders} == {
        (orders[0].id, 3, orders[0].example)
    }
    assert orders[0].deadline_s > orders[2].deadline_s, "the clock of the request goes on"
    service.first.ends = ["gone"] * 3
    with pytest.raises(Problem) as refused:
        await service.desk.answer(asked_of())
    assert (refused.value.status, refused.value.retry_s is not None) == (503, True)


async def test_a_follower_is_told_when_its_episode_begins_anew() -> None:
    service = make_service()
    service.first.ends = ["gone", "nothing", "result"]
    names = await names_of(service, asked_of())
    assert names == ["start", "delta", "restart", "delta", "restart", "delta", "result"]
    service.first.ends = ["nothing"] * 3
    with pytest.raises(Problem) as refused:
        await names_of(service, asked_of())
    assert refused.value.status == 503 and all(order.streamed for order in service.first.orders)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_has_one_deadline_and_what_it_began_is_ended(streamed: bool) -> None:
    service = make_service()
    service.first.ends = ["hang"]
    with pytest.raises(Problem) as late:
        asked = asked_of(deadline_s=0.4)
        await (names_of(service, asked) if streamed else service.desk.answer(asked))
    assert late.value.status == 504 and (service.first.under_way, service.first.cancelled) == (0, 1)


async def test_leaving_a_stream_ends_its_order() -> None:
    service = make_service()
    service.first.ends = ["hang"]
    async with aclosing(service.desk.follow(asked_of())) as events:
        async for event in events:
            if event.name == "delta":
                break
    assert (service.first.under_way, service.first.cancelled) == (0, 1)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (asked_of(policy="z"), "options.policy"),
        (read_extract({"text": "Ada", "image": "AAAA"}, LIMITS), "image"),
        (read_extract({"text": "Ada", "image": ""}, LIMITS), "image"),
        (read_extract({"text": "Ada", "image_url": "https://example.org/a.png"}, LIMITS), "image_url"),
    ],
)
async def test_what_cannot_be_used_is_named_before_an_engine_is_asked(asked: Asked, field: str) -> None:
    service = make_service()
    with pytest.raises(Problem) as refused:
        await service.desk.answer(asked)
    assert (refused.value.status, refused.value.field) == (422, field) and not service.first.orders


@pytest.mark.parametrize(
    "data",
    [pictures.cut(pictures.jpeg()), pictures.png_header(100_000, 100_000), pictures.png_header(5_700, 5_700),
     pictures.scan_bomb(), pictures.rle_bmp(), pictures.lopsided_png(), b"<svg/>", b""],
)  # fmt: skip
async def test_hostile_pictures_are_the_clients_fault(data: bytes) -> None:
    service = make_service()
    files = {"image": ("a.png", data, "image/png")}
    answer = await ask(service, "POST", "/v1/extract", data={"text": "Ada"}, files=files)
    assert (answer.status, answer.json()["field"]) == (422, "image") and not service.first.orders


async def test_a_batch_answers_each_item_and_takes_no_more_places_than_there_are() -> None:
    service = make_service(places=2)
    service.first.ends = ["result", "late", "result"]
    service.first.going.clear()
    batch = asyncio.create_task(service.desk.batch([post(), post(text=""), post(), post(), post(stream=True)]))
    await asyncio.sleep(0.1)
    service.first.going.set()
    answers = await batch
    assert sorted(answer["status"] for answer in answers) == [200, 200, 422, 422, 504] and service.first.most == 2
    assert [answers[at]["problem"]["field"] for at in (1, 4)] == ["text", "stream"]
    assert service.places() == 2


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([*ENDS, "hang"]), max_size=3),
            st.sampled_from(["plain", "stream", "batch", "broken"]),
            st.none() | st.integers(0, 6),
            st.sampled_from(["2.3", "2.4"]),
        ),
        max_size=4,
    )
)
@settings(max_examples=30)
def test_whatever_comes_of_requests_all_places_are_free_afterwards(
    requests: list[tuple[list[str], str, int | None, str]],
) -> None:
    async def play() -> None:
        service = make_service(places=4)
        for ends, kind, leave_after, spec in requests:
            service.first.ends = list(ends)
            body: dict[str, Any] = post(options={"deadline_s": 0.01}, stream=kind == "stream")
            path = "/v1/extract"
            if kind == "batch":
                path, body = "/v1/extract/batch", {"items": [post(options={"deadline_s": 0.01})] * 3}
            elif kind == "broken":
                body = post(colour=1)
            await ask(service, "POST", path, json=body, leave_after=leave_after, spec=spec)
            await asyncio.sleep(0)
            assert service.places() == 4 and service.first.under_way == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(play())
