"""`replay`: a demonstration becomes the very trajectory that was played, or is refused with the post and the reason.

What would go unseen otherwise: training on ids the policy would never see, on half an episode, or on a turn that is
masked as context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import sake_ray
from envs.episode import EpisodeLimits, run_episode
from envs.replay import ReplayError, replay
from sake_ray.coldstart.teaching import Demonstration, TaughtTurn
from sake_ray.data.codec import ChatCodec
from sake_ray.prompts import load_prompts
from sake_ray.trajectory import Trajectory
from sake_ray.types import (
    Completion,
    Example,
    ImageRef,
    ImageSearch,
    Observation,
    QueryResult,
    SearchKind,
    StopReason,
    TextSearch,
)

MODEL = Path(sake_ray.__file__).parent / "assets" / "mini_base"
POST = Example("p1", "Ada in Paris", ImageRef("post.png", 84, 84), ())
TEXT = '<reason>Ada unknown</reason><text_search>[{"query": "Ada"}]</text_search>'
IMAGE = '<reason>Ada unknown</reason><image_search>[{"query": "Ada"}, {"query": "Paris"}]</image_search>'
ANSWER = '<reason>Ada PER</reason><answer>[{"entity": "Ada", "type": "PER", "box2d": [1, 2, 30, 40]}]</answer>'


@pytest.fixture(scope="module")
def codec() -> ChatCodec:
    prompts = load_prompts("gmner", "compact")
    return ChatCodec.from_pretrained(str(MODEL), prompts=prompts, min_pixels=56 * 56, max_pixels=140 * 140)


class Player:
    """A policy that says the given texts, and a search tool that finds something for every query."""

    def __init__(self, codec: ChatCodec, texts: Sequence[str]) -> None:
        self.codec, self.texts = codec, list(texts)

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        text = self.texts.pop(0)
        ids = tuple(self.codec.tokenizer.encode(text, add_special_tokens=False))
        return Completion(ids, (-0.5,) * len(ids), text, "stop", 3)

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        kind = SearchKind.TEXT if isinstance(action, TextSearch) else SearchKind.IMAGE
        images = (ImageRef("found.png", 60, 90),) if kind is SearchKind.IMAGE else ()
        found = tuple(QueryResult(query, "success", f"{query} is someone", images) for query in action.queries)
        return Observation(kind, found, latency_s=0.25)


def played(codec: ChatCodec, *texts: str) -> Trajectory:
    player = Player(codec, texts)
    return asyncio.run(
        run_episode(
            POST, policy=player, codec=codec, search=player, limits=EpisodeLimits(), seed=5, trajectory_id="original"
        )
    )


def recorded(trajectory: Trajectory) -> Demonstration:
    return Demonstration(POST, (), tuple(TaughtTurn(turn.text, turn.observation) for turn in trajectory.turns))


def again(codec: ChatCodec, demonstration: Demonstration, **limits: int) -> Trajectory:
    return asyncio.run(replay(demonstration, codec=codec, limits=EpisodeLimits(**limits)))


@pytest.mark.parametrize("texts", [(ANSWER,), (TEXT, ANSWER), (IMAGE, ANSWER), (IMAGE, TEXT, ANSWER)])
def test_a_replay_is_the_trajectory_that_was_played(codec: ChatCodec, texts: tuple[str, ...]) -> None:
    original = played(codec, *texts)
    found = again(codec, recorded(original))
    assert found.token_ids == original.token_ids
    assert found.short_ids == original.short_ids
    assert found.loss_mask == original.loss_mask
    assert found.images == original.images
    assert found.stop_reason is StopReason.ANSWER
    assert found.token_ids.count(codec.image_pad_id) == sum(codec.image_pads(image) for image in found.images)


def test_only_the_turns_are_trained(codec: ChatCodec) -> None:
    found = again(codec, recorded(played(codec, TEXT, ANSWER)))
    trained = [token for token, mask in zip(found.token_ids, found.loss_mask, strict=True) if mask]
    assert codec.tokenizer.decode(trained) == TEXT + ANSWER


def refusal(codec: ChatCodec, demonstration: Demonstration, **limits: int) -> str:
    with pytest.raises(ReplayError) as caught:
        again(codec, demonstration, **limits)
    assert str(caught.value).startswith("post p1: ")
    return str(caught.value)


def taught(*turns: tuple[str, Observation | None]) -> Demonstration:
    return Demonstration(POST, (), tuple(TaughtTurn(text, observation) for text, observation in turns))


def test_what_is_too_long_names_the_limit(codec: ChatCodec) -> None:
    whole = recorded(played(codec, TEXT, ANSWER))
    prompt = len(codec.prompt(POST).token_ids)
    assert "episode.max_turn_tokens=10" in refusal(codec, whole, max_turn_tokens=10)
    assert "episode.max_tokens" in refusal(codec, whole, max_tokens=prompt)
    assert "episode.max_tokens" in refusal(codec, whole, max_tokens=prompt + 40)
    length = len(played(codec, TEXT, ANSWER).token_ids)
    assert "turn 2 of 2" in refusal(codec, whole, max_tokens=length - 1)
    assert len(again(codec, whole, max_tokens=length).token_ids) == length


def test_a_result_that_loses_pictures_is_refused(codec: ChatCodec) -> None:
    whole = recorded(played(codec, IMAGE, ANSWER))
    assert "recorded result whole" in refusal(codec, whole, max_images=3)
    assert "episode.max_images" in refusal(codec, whole, max_images=1)


def test_a_demonstration_that_is_no_episode_is_refused(codec: ChatCodec) -> None:
    found = recorded(played(codec, TEXT, ANSWER)).turns[0].observation
    assert "no turns" in refusal(codec, taught())
    assert "malformed at turn 1 of 1" in refusal(codec, taught(("I would rather not.", None)))
    assert "answers at turn 1 of 2" in refusal(codec, taught((ANSWER, None), (ANSWER, None)))
    assert "ends in a search" in refusal(codec, taught((TEXT, found)))
    assert "no result was recorded" in refusal(codec, taught((TEXT, None), (ANSWER, None)))
    assert "answered by a text result" in refusal(codec, taught((IMAGE, found), (ANSWER, None)))
    assert "recorded result" in refusal(codec, taught((ANSWER, found)))
    assert "search_limit at turn 1" in refusal(codec, taught((TEXT, found), (ANSWER, None)), text_searches=0)
    assert "turn_limit at turn 1" in refusal(codec, taught((TEXT, found), (ANSWER, None)), max_turns=1)


def test_words_that_the_tokenizer_takes_for_chat_marks_are_refused(codec: ChatCodec) -> None:
    for mark in ("<|image_pad|>", "<|im_end|>", "<|vision_start|>"):
        assert mark in refusal(codec, taught((ANSWER.replace("Ada PER", f"Ada {mark}"), None)))


def test_the_recorded_post_may_be_anything_the_codec_takes(codec: ChatCodec) -> None:
    marked = replace(POST, text="Ada <|im_end|> in Paris")
    found = again(codec, Demonstration(marked, (), (TaughtTurn(ANSWER),)))
    assert found.stop_reason is StopReason.ANSWER
