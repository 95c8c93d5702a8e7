"""The client of the service: what it sends, when it asks again, when it gives up, and what it takes for an answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from launch import service_client
from launch.post_files import Post
from launch.predicting import AskingEnded, Reply
from launch.service_client import ServiceClient, checked_url
from sake_ray.serving.problems import Problem
from tests.launch.extract_stub import ExtractStub, Form, Said, result_of, running, write_picture

ASKING: dict[str, Any] = {"search": True, "seed": 7, "temperature": 0.0, "thumbnails": False}


@pytest.fixture
def post(tmp_path: Path) -> Post:
    return Post("one", "Ada ist da 🎉", write_picture(tmp_path / "one.png"))


@asynccontextmanager
async def client(url: str, **changes: Any) -> AsyncIterator[ServiceClient]:
    async with ServiceClient(url, **{"options": ASKING, "deadline_s": 20.0, **changes}) as made:
        yield made


async def ask(stub: ExtractStub, post: Post, **changes: Any) -> Reply:
    with running(stub) as url:
        async with client(url, **changes) as service:
            return await service.ask(post)


def scripted(*says: Said | None) -> ExtractStub:
    """Says one after another; None is a result."""
    left: Iterator[Said | None] = iter(says)

    def answer(form: Form) -> Said:
        said = next(left)
        return result_of(form) if said is None else said

    return ExtractStub(answer)


async def test_a_post_goes_out_as_a_form_with_its_options_and_the_token(post: Post) -> None:
    stub = ExtractStub()
    reply = await ask(stub, post, token="0123456789abcdef")
    assert reply.status == 200 and reply.result is not None
    assert reply.result["entities"][0]["text"] == "Ada"
    (form,) = stub.asked
    assert form.text == post.text and form.image == post.picture.read_bytes()
    assert form.options == {**ASKING, "deadline_s": 20.0}
    assert form.headers["Authorization"] == "Bearer 0123456789abcdef"


async def test_busy_and_unavailable_are_asked_again_after_what_they_say(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr(service_client.asyncio, "sleep", sleep)
    stub = scripted(
        Problem("busy", "3 requests are under way", retry_s=2.0),
        Problem("unavailable", "no engine", retry_s=9_999.0),
        Problem("busy", "no word of when"),
        None,
    )
    reply = await ask(stub, post)
    assert reply.status == 200 and len(stub.asked) == 4
    assert 2.0 <= slept[0] <= 2.5 and 30.0 <= slept[1] <= 37.5 and 4.0 <= slept[2] <= 5.0


async def test_it_does_not_ask_for_ever(post: Post) -> None:
    stub = ExtractStub(lambda form: Problem("busy", "full", retry_s=0.0))
    reply = await ask(stub, post, tries=3)
    assert len(stub.asked) == 3
    assert reply.status == 429 and reply.result is None and reply.said() == "full"


async def test_a_problem_is_kept_with_its_field_and_not_asked_again(post: Post) -> None:
    stub = ExtractStub(lambda form: Problem("invalid", "bad_picture: it is cut off", "image"))
    reply = await ask(stub, post)
    assert len(stub.asked) == 1 and reply.status == 422
    assert reply.said() == "image: bad_picture: it is cut off"
    assert reply.problem is not None and reply.problem["type"] == "urn:sake-ray:problem:invalid"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (Problem("unauthorized", "send a token"), "refuses: send a token"),
        (web.Response(status=404, text="nothing here"), "answers 404 (text/plain) and no result"),
        (web.Response(status=302, headers={"Location": "http://example.org/"}), "answers 302"),
        ({"entities": 3}, "answers 200 (application/json) and no result: that is not the service"),
    ],
)
async def test_what_all_posts_would_be_told_ends_it(post: Post, said: Said, sentence: str) -> None:
    stub = ExtractStub(lambda form: said)
    with pytest.raises(AskingEnded) as ended:
        await ask(stub, post)
    assert sentence in str(ended.value) and len(stub.asked) == 1


async def test_a_proxy_that_finds_no_service_is_asked_again(post: Post) -> None:
    bad = web.Response(status=503, text="<html>", content_type="text/html", headers={"Retry-After": "0"})
    assert (await ask(scripted(bad, None), post)).status == 200


async def test_no_service_is_one_sentence(post: Post) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # taken, but nobody listens
        url = "http://{}:{}".format(*held.getsockname())
        async with client(url) as service:
            with pytest.raises(AskingEnded) as ended:
                await service.ask(post)
    assert str(ended.value).startswith(f"nothing answers at {url} (Connection refused); is the service running?")


async def test_a_service_that_says_nothing_is_given_up(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_client, "GRACE_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with client("http://{}:{}".format(*silent.getsockname()), deadline_s=0.1) as service:
            reply = await service.ask(post)
    assert reply.status == 504 and "said nothing within 0.3 seconds" in reply.said()


async def test_an_answer_without_end_is_not_read(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_client, "MAX_BYTES", 10_000)
    with pytest.raises(AskingEnded, match="more than 10000 bytes"):
        await ask(ExtractStub(lambda form: web.Response(text="x" * 100_000)), post)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://h", "http://", "http://h:0", "http://a:b@h", "http://h:x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        checked_url(url)


def test_an_address_may_end_in_a_slash() -> None:
    assert checked_url("https://h:8/") == "https://h:8"
