"""Episodes with a served model, against a real server that plays one: the rules of training, over chat messages."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image

from envs.chat_client import ChatClient, ChatError
from envs.endpoint_policy import ChatEpisode, EndpointPolicy
from envs.episode import EpisodeLimits, turn_seed
from envs.rate_limit import Limits, RateLimiter
from sake_ray.data.images import processed_size
from sake_ray.prompts import load_direct_prompts, load_prompts
from sake_ray.types import (
    Answer,
    Box,
    Entity,
    Example,
    ImageRef,
    ImageSearch,
    Malformed,
    Observation,
    QueryResult,
    SearchKind,
    StopReason,
    TextSearch,
)
from tests.envs.chat_endpoint import ChatEndpoint, completion, error_reply, json_reply, serving

PIXELS = {"min_pixels": 40 * 40, "max_pixels": 60 * 60}
POST = Example(
    "p1",
    "Ada visits Bern",
    ImageRef("p1.png", 200, 100, standin=((Box(0, 0, 50, 50), "Ada"),)),
    (Entity("Ada", "PER", (Box(0, 0, 50, 50),)),),
)
SEARCH = '<reason>Who is Ada?</reason><text_search>[{"query": "Ada"}]</text_search>'
LOOK = '<reason>Who is Ada?</reason><image_search>[{"query": "Ada"}]</image_search>'
ANSWER = '<reason>I see.</reason><answer>[{"entity": "Ada", "type": "PER", "box2d": [0, 0, 21, 21]}]</answer>'
CUT = completion("<reason>Ada is", "length")


class Tool:
    """A `SearchClient` that finds something; an image search finds two pictures."""

    def __init__(self) -> None:
        self.asked: list[TextSearch | ImageSearch] = []

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        self.asked.append(action)
        if isinstance(action, TextSearch):
            return Observation(SearchKind.TEXT, (QueryResult("Ada", "success", "Ada is a singer."),), 0.25)
        found = tuple(ImageRef(f"{name}.png", 80, 80, standin=()) for name in "xy")
        return Observation(SearchKind.IMAGE, (QueryResult("Ada", "success", images=found),), 0.25)


@pytest.fixture
async def endpoint() -> AsyncIterator[ChatEndpoint]:
    async with serving() as running:
        yield running


async def play(
    endpoint: ChatEndpoint, *answers: Any, tool: Tool | None = None, seed: int | None = None, **limits: int
) -> ChatEpisode:
    """One episode; an answer is the model's text, or the whole body of its completion."""
    bodies = [completion(answer) if isinstance(answer, str) else answer for answer in answers]
    endpoint.replies = [json_reply(body) for body in bodies]
    direct = limits.get("max_turns") == 1
    client = ChatClient(endpoint.url, "scripted", limiter=RateLimiter(Limits(1e6, burst=99)), backoff_s=0.0)
    policy = EndpointPolicy(
        client, (load_direct_prompts if direct else load_prompts)("gmner", "full"), limits=EpisodeLimits(**limits),
        temperature=0.0 if seed is None else 0.7, **PIXELS,
    )  # fmt: skip
    try:
        return await policy.play(POST, tool or Tool(), seed=seed, episode_id="p1.0")
    finally:
        await client.close()


def pictures(message: dict[str, Any]) -> list[tuple[int, int]]:
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls]


def words(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


async def test_a_search_is_answered_in_a_user_turn_and_the_answer_ends_the_episode(endpoint: ChatEndpoint) -> None:
    tool = Tool()
    episode = await play(endpoint, completion(SEARCH, usage=(100, 10)), completion(ANSWER, usage=(150, 20)), tool=tool)
    assert episode.stop_reason is StopReason.ANSWER
    assert tool.asked == [TextSearch(("Ada",))]
    first, second = episode.turns
    assert first.observation is not None and first.observation.results[0].text == "Ada is a singer."
    assert isinstance(second.action, Answer) and second.observation is None
    assert (episode.context_tokens, episode.prompt_tokens, episode.written_tokens) == (170, 250, 30)

    asked, again = endpoint.bodies
    assert [message["role"] for message in again["messages"]] == ["user", "assistant", "user"]
    assert again["messages"][0] == asked["messages"][0]
    assert again["messages"][1]["content"] == SEARCH
    shown = words(again["messages"][2])
    assert "<information>" in shown and "Ada is a singer." in shown
    assert pictures(asked["messages"][0]) == [processed_size(200, 100, **PIXELS)]
    assert POST.text in words(asked["messages"][0])
    assert asked["temperature"] == 0.0 and "seed" not in asked
    assert set(asked["stop"]) == {"</answer>", "</text_search>", "</image_search>"}


async def test_a_server_that_leaves_out_stop_strings_and_one_that_ignores_them_are_read_alike(
    endpoint: ChatEndpoint,
) -> None:
    left_out, ignored = SEARCH.removesuffix("</text_search>"), f"<think>hm</think>{SEARCH} And then {ANSWER}"
    for said in (left_out, ignored):
        endpoint.bodies.clear()
        episode = await play(endpoint, said, ANSWER)
        assert episode.turns[0].text == SEARCH
        assert episode.stop_reason is StopReason.ANSWER


@pytest.mark.parametrize(
    ("answers", "limits", "reason"),
    [
        (["I would say Ada."], {}, StopReason.MALFORMED),
        ([CUT], {}, StopReason.TRUNCATED),
        ([SEARCH, SEARCH], {}, StopReason.SEARCH_LIMIT),
        ([SEARCH, LOOK, LOOK], {"max_turns": 3, "image_searches": 2}, StopReason.TURN_LIMIT),
        ([SEARCH], {"max_turns": 1, "text_searches": 0}, StopReason.SEARCH_LIMIT),
        ([completion(SEARCH, usage=(4000, 100))], {"max_tokens": 4096}, StopReason.TRUNCATED),
    ],
)
async def test_an_episode_ends_as_in_training(
    endpoint: ChatEndpoint, answers: list[Any], limits: dict[str, Any], reason: StopReason
) -> None:
    episode = await play(endpoint, *answers, **limits)
    assert episode.stop_reason is reason
    assert len(episode.turns) == len(endpoint.bodies) == len(answers)
    read_as_action = not isinstance(episode.turns[-1].action, Malformed)
    assert read_as_action == (reason is not StopReason.MALFORMED and answers[-1] != CUT)


async def test_pictures_beyond_the_limit_are_not_shown_and_tokens_left_are_all_that_is_asked_for(
    endpoint: ChatEndpoint,
) -> None:
    answers = [completion(LOOK, usage=(900, 50)), completion(ANSWER, usage=(1500, 50))]
    # Each user turn shows the post's picture; of the two that were found, one fits.
    episode = await play(endpoint, *answers, max_images=3, max_tokens=1000)
    assert episode.turns[0].observation is not None
    assert [len(result.images) for result in episode.turns[0].observation.results] == [1]
    assert len(pictures(endpoint.bodies[1]["messages"][2])) == 2
    assert endpoint.bodies[1]["max_tokens"] == 50


async def test_a_sampled_episode_sends_the_seed_of_each_turn(endpoint: ChatEndpoint) -> None:
    await play(endpoint, SEARCH, ANSWER, seed=7)
    assert [body["seed"] for body in endpoint.bodies] == [turn_seed(7, 0), turn_seed(7, 1)]
    assert endpoint.bodies[0]["temperature"] == 0.7


async def test_no_answer_is_an_error_and_no_empty_episode(endpoint: ChatEndpoint) -> None:
    endpoint.replies = [error_reply(500)]
    client = ChatClient(endpoint.url, "scripted", limiter=RateLimiter(Limits(1e6)), retries=1, backoff_s=0.0)
    policy = EndpointPolicy(client, load_prompts("gmner", "full"), limits=EpisodeLimits(), **PIXELS)
    with pytest.raises(ChatError, match="status 500"):
        await policy.play(POST, Tool(), seed=None, episode_id="p1.0")
    await client.close()
