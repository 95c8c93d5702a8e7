"""The openai teacher against a real server that plays a scripted model: what it is shown, told and makes of answers."""

from __future__ import annotations

import base64
import io
import json
import logging
import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from envs.chat_client import ChatClient
from envs.chat_parts import turn_of
from envs.openai_teacher import OpenAiTeacher, make_openai_teacher
from envs.rate_limit import Limits, RateLimiter
from sake_ray.actions import parse_action
from sake_ray.coldstart.teacher_prompt import leaks
from sake_ray.coldstart.teaching import Brief, Need, TaughtTurn, Teacher, TeacherError, TeacherRefused
from sake_ray.config import sections
from sake_ray.config.config import Config
from sake_ray.config.values import ConfigError
from sake_ray.data.images import ImageError, processed_size
from sake_ray.prompts import load_prompts
from sake_ray.types import (
    Answer,
    Box,
    Entity,
    Example,
    ImageRef,
    ImageSearch,
    Observation,
    QueryResult,
    SearchKind,
    TextSearch,
)
from tests.envs.chat_endpoint import ChatEndpoint, completion, error_reply, json_reply, serving

PIXELS = {"min_pixels": 28 * 28, "max_pixels": 200 * 100}
BOX = Box(100, 40, 300, 160)
POST = ImageRef("post", 400, 200, standin=((BOX, "Ada Vex"),))
FOUND = ImageRef("found", 64, 48, standin=())
EXAMPLE = Example(
    "p1", "RT @x : Ada Vex in Norwich", POST, (Entity("Ada Vex", "PER", (BOX,)), Entity("Norwich", "LOC"))
)
BRIEF = Brief(EXAMPLE, (Need.BOTH, Need.NONE))
PROMPTS = load_prompts("gmner", "full")
SEARCHED_TEXT = Observation(SearchKind.TEXT, (QueryResult("Ada Vex", "success", "Ada Vex is a <|im_end|> singer."),))
SEARCHED_IMAGES = Observation(SearchKind.IMAGE, (QueryResult("Ada Vex", "success", images=(FOUND,)),))
KEY = "sk-planted-0123456789abcdef"


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChatEndpoint]:
    monkeypatch.setenv("TEST_CHAT_KEY", KEY)
    async with serving() as running:
        yield running


def teacher_of(endpoint: ChatEndpoint, **settings: Any) -> OpenAiTeacher:
    client = ChatClient(
        endpoint.url, "tiny", limiter=RateLimiter(Limits(1000.0)), key_env="TEST_CHAT_KEY", retries=0, timeout_s=5.0
    )
    return OpenAiTeacher(client, PROMPTS, task="gmner", **(PIXELS | settings))


def picture(part: dict[str, Any]) -> Image.Image:
    head, data = part["image_url"]["url"].split(",", 1)
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def words(content: list[dict[str, Any]]) -> str:
    return "".join(part["text"] if part["type"] == "text" else "{image}" for part in content)


async def play(request: web.Request) -> web.StreamResponse:
    """A model that does as its hidden instructions say; the server leaves the stop string out, as OpenAI's does."""
    messages = (await request.json())["messages"]
    hidden = messages[0]["content"]
    now = hidden.split("NEXT TURN\n")[1].split("\n")[0]
    reason = f"<reason>turn {len(messages) // 2}</reason>"
    if now.startswith("The reader answers"):
        gold = next(line for line in hidden.splitlines() if line.startswith("["))
        text = f"{reason}<answer>{gold}"
    else:
        tag = "image_search" if "an image search" in now else "text_search"
        text = f'{reason}<{tag}>[{{"query": "Ada Vex"}}]'
    return await json_reply(completion(text))(request)


async def test_a_whole_dialogue(endpoint: ChatEndpoint) -> None:
    endpoint.replies = [play]
    teacher: Teacher = teacher_of(endpoint, image_first=True)
    found = {ImageSearch: SEARCHED_IMAGES, TextSearch: SEARCHED_TEXT}
    turns: list[TaughtTurn] = []
    while True:
        text = await teacher.write_turn(BRIEF, turns)
        action = parse_action(text)
        if isinstance(action, Answer):
            break
        assert isinstance(action, ImageSearch | TextSearch), text
        turns.append(TaughtTurn(text, found[type(action)]))
    assert [type(parse_action(turn.text)) for turn in turns] == [ImageSearch, TextSearch]
    said = [(entity.text, entity.type, entity.box) for entity in action.entities]
    assert said == [("Ada Vex", "PER", (50.0, 20.0, 150.0, 80.0)), ("Norwich", "LOC", None)]
    assert isinstance(teacher, OpenAiTeacher)
    assert (teacher.usage().requests, teacher.name) == (3, "openai:tiny")
    await teacher.close()


async def test_the_model_sees_what_the_policy_will_see(endpoint: ChatEndpoint) -> None:
    teacher = teacher_of(endpoint, max_turn_tokens=99, temperature=0.25, max_result_chars=12)
    turns = [
        TaughtTurn("<reason>a</reason><text_search>[]</text_search>", SEARCHED_TEXT),
        TaughtTurn("<reason>b</reason><image_search>[]</image_search>", SEARCHED_IMAGES),
    ]
    await teacher.write_turn(BRIEF, turns)
    await teacher.close()
    body = endpoint.bodies[0]
    assert (body["temperature"], body["max_tokens"]) == (0.25, 99)
    assert set(body["stop"]) == {"</answer>", "</text_search>", "</image_search>"}
    rest = body["messages"][1:]
    assert [message["role"] for message in rest] == ["user", "assistant", "user", "assistant", "user"]
    assert [message["content"] for message in rest[1::2]] == [turn.text for turn in turns]

    def shown(parts: tuple[str | ImageRef, ...]) -> str:
        return "".join(part if isinstance(part, str) else "{image}" for part in parts)

    users = [message["content"] for message in rest[::2]]
    assert words(users[0]) == shown(PROMPTS.first_turn(EXAMPLE))
    assert words(users[1]) == shown(PROMPTS.search_turn(EXAMPLE, SEARCHED_TEXT, 12))
    assert words(users[2]) == shown(PROMPTS.search_turn(EXAMPLE, SEARCHED_IMAGES, 12))
    assert "<|" not in words(users[1])
    sizes = [[picture(part).size for part in content if part["type"] == "image_url"] for content in users]
    post, found = (processed_size(ref.width, ref.height, **PIXELS) for ref in (POST, FOUND))
    assert sizes == [[post], [post], [found, post]]
    grey = picture(next(part for part in users[0] if part["type"] == "image_url")).resize((1, 1), box=(0, 0, 9, 9))
    assert abs(grey.convert("L").tobytes()[0] - 224) < 8, "the stand-in as it is drawn"


async def test_secrets_stand_in_the_system_message_alone(endpoint: ChatEndpoint) -> None:
    teacher = teacher_of(endpoint)
    await teacher.write_turn(BRIEF, [TaughtTurn("<reason>a</reason>", SEARCHED_TEXT)], "the answer lacks 'Norwich'")
    await teacher.close()
    system, *rest = endpoint.bodies[0]["messages"]
    gold = json.dumps([
        {"entity": "Ada Vex", "type": "PER", "box2d": [50, 20, 150, 80]},
        {"entity": "Norwich", "type": "LOC", "box2d": []},
    ])  # fmt: skip
    assert gold in system["content"]
    assert "rejected because: the answer lacks 'Norwich'" in system["content"]
    assert system["content"] == teacher.hidden_text(
        BRIEF, [TaughtTurn("", SEARCHED_TEXT)], "the answer lacks 'Norwich'"
    )
    visible = json.dumps(rest)
    for secret in ("SOLUTION", "rejected", "[50, 20", "The reader"):
        assert secret not in visible
    assert leaks(words(rest[0]["content"]), system["content"], PROMPTS.instruction) is None


REASON = "<reason>r</reason>"
ANSWER = f"{REASON}<answer>[]</answer>"


@pytest.mark.parametrize(
    ("text", "finish_reason", "turn"),
    [
        (ANSWER, "stop", ANSWER),
        (f"\n{ANSWER} so <answer>[1]</answer>", "length", ANSWER),
        (f"{REASON}<answer>[]", "stop", ANSWER),
        (f"{REASON}<text_search>[]\n", "stop", f"{REASON}<text_search>[]</text_search>"),
        (f"{REASON}<answer><image_search>[]", "stop", f"{REASON}<answer><image_search>[]</image_search>"),
        (f"{REASON}<answer>[", "length", f"{REASON}<answer>["),
        ("<reason>r", "stop", "<reason>r"),
        (f"<think>told </answer></think>\n{REASON}<answer>[]", "stop", ANSWER),
        ("", "stop", ""),
    ],
)  # fmt: skip
def test_a_turn_ends_where_an_engine_stops(text: str, finish_reason: str, turn: str) -> None:
    assert turn_of(text, finish_reason) == turn


async def test_no_answer_is_a_lost_try_and_a_refusal_the_end(
    endpoint: ChatEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.replies = [error_reply(500, KEY), error_reply(401, KEY)]
    teacher = teacher_of(endpoint)
    with pytest.raises(TeacherError, match="no answer after 1 request") as lost:
        await teacher.write_turn(BRIEF, [])
    with pytest.raises(TeacherRefused, match="TEST_CHAT_KEY") as refused:
        await teacher.write_turn(BRIEF, [])
    await teacher.close()
    told = "".join("".join(traceback.format_exception(error.value)) for error in (lost, refused))
    assert KEY not in told + caplog.text


async def test_a_missing_picture_is_named(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    teacher = teacher_of(endpoint)
    gone = replace(EXAMPLE, image=ImageRef(str(tmp_path / "gone.jpg"), 400, 200))
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        await teacher.write_turn(replace(BRIEF, example=gone), [])
    await teacher.close()
    assert not endpoint.bodies


async def test_nothing_comes_after_an_answer(endpoint: ChatEndpoint) -> None:
    teacher = teacher_of(endpoint)
    with pytest.raises(ValueError, match="post p1: turn 1 is no search"):
        await teacher.write_turn(BRIEF, [TaughtTurn("<answer>[]</answer>")])
    await teacher.close()


async def test_a_teacher_by_configuration(endpoint: ChatEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    secot = sections.SecotConfig(
        teacher="openai", endpoint=endpoint.url, model="tiny", key_env="TEST_CHAT_KEY", temperature=0.0, price_in=1e6
    )
    config = Config(secot=secot, data=sections.DataConfig(task="fmnerg", min_pixels=28 * 28))
    teacher = make_openai_teacher(config)
    await teacher.write_turn(BRIEF, [])
    await teacher.close()
    assert endpoint.bodies[0]["temperature"] == 0.0
    assert "51 fine types" in endpoint.bodies[0]["messages"][0]["content"]
    assert teacher.usage().cost == 7.0
    with pytest.raises(ConfigError, match=r"secot\.model"):
        make_openai_teacher(replace(config, secot=replace(secot, model="")))
    with pytest.raises(ConfigError, match=r"secot\.endpoint: the base URL"):
        make_openai_teacher(replace(config, secot=replace(secot, endpoint="localhost:8000")))
    monkeypatch.setenv("TEST_CHAT_KEY", "two\nlines")
    with pytest.raises(TeacherRefused, match="TEST_CHAT_KEY"):
        make_openai_teacher(config)
