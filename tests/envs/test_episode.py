"""`run_episode`: how episodes end, and that token budget, images and pads hold however they end."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.episode import EpisodeLimits, PromptTooLong, run_episode, turn_seed, without_last_images
from sake_ray.trajectory import Segment, Trajectory, Turn
from sake_ray.types import (
    Answer,
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

PAD = 7  # the fake codec's image pad: one in short ids, `PADS` in expanded ids
PADS = 4
POST_IMAGE = ImageRef("post.png", 40, 30)
EXAMPLE = Example("p1", "Ada in Paris", POST_IMAGE, ())
ANSWER = "<reason>r</reason><answer>[]</answer>"
TEXT = '<reason>r</reason><text_search>["Ada"]</text_search>'
IMAGE = '<reason>r</reason><image_search>["Ada"]</image_search>'


class ScriptedPolicy:
    """Says the given texts in order, one token a character, and remembers how it was asked."""

    def __init__(self, *texts: str, finish_reason: str = "stop") -> None:
        self.texts = list(texts)
        self.finish_reason = finish_reason
        self.asked: list[tuple[int, int, int, int]] = []

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        self.asked.append((list(short_ids).count(PAD), len(images), max_tokens, seed))
        text = self.texts.pop(0)[:max_tokens]
        reason = "length" if len(text) == max_tokens else self.finish_reason
        return Completion(tuple(100 + ord(c) for c in text), (-0.5,) * len(text), text, reason, 3)


class PadCodec:
    """Prompts of `prompt` tokens and observations of `answer` tokens, images beside."""

    def __init__(self, prompt: int = 10, answer: int = 5) -> None:
        self.sizes = (prompt, answer)

    def prompt(self, example: Example) -> Segment:
        return self._segment(self.sizes[0], (example.image,))

    def observation(self, example: Example, observation: Observation, *, after_ids: Sequence[int]) -> Segment:
        images = tuple(image for result in observation.results for image in result.images)
        return self._segment(self.sizes[1], (*images, example.image))

    def _segment(self, size: int, images: tuple[ImageRef, ...]) -> Segment:
        text = (1,) * size
        return Segment(text + (PAD,) * len(images), text + (PAD,) * (PADS * len(images)), images)


class PictureSearch:
    """Every query succeeds with `pictures` images."""

    def __init__(self, pictures: int = 2) -> None:
        self.pictures = pictures
        self.asked: list[TextSearch | ImageSearch] = []

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        self.asked.append(action)
        kind = SearchKind.TEXT if isinstance(action, TextSearch) else SearchKind.IMAGE
        images = tuple(ImageRef(f"{i}.png", 10, 10) for i in range(self.pictures)) if kind is SearchKind.IMAGE else ()
        return Observation(kind, tuple(QueryResult(q, "success", "words", images) for q in action.queries))


async def run(
    policy: ScriptedPolicy, limits: EpisodeLimits | None = None, search: PictureSearch | None = None, **sizes: int
) -> Trajectory:
    return await run_episode(
        EXAMPLE,
        policy=policy,
        codec=PadCodec(**sizes),
        search=search or PictureSearch(),
        limits=limits or EpisodeLimits(),
        seed=11,
        trajectory_id="t1",
    )


async def test_turns_know_when_they_and_their_searches_began(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(100.0)
    monkeypatch.setattr("envs.episode.time.time", lambda: next(clock))
    turns = (await run(ScriptedPolicy(TEXT, ANSWER))).turns
    assert [(turn.began_s, turn.search_began_s) for turn in turns] == [(100.0, 101.0), (102.0, None)]


def check_aligned(trajectory: Trajectory) -> None:
    """The promises of a trajectory: one length everywhere, pads match images, masks match versions."""
    n = len(trajectory.token_ids)
    assert n == len(trajectory.loss_mask) == len(trajectory.logprobs) == len(trajectory.versions)
    assert trajectory.short_ids.count(PAD) == len(trajectory.images)
    assert trajectory.token_ids.count(PAD) == PADS * len(trajectory.images)
    assert [mask == 1 for mask in trajectory.loss_mask] == [version == 3 for version in trajectory.versions]
    assert trajectory.trained_tokens == sum(len(turn.text) for turn in trajectory.turns)


@pytest.mark.parametrize(
    ("texts", "stop"),
    [
        ((ANSWER,), StopReason.ANSWER),
        ((TEXT, ANSWER), StopReason.ANSWER),
        ((TEXT, IMAGE, ANSWER), StopReason.ANSWER),
        ((IMAGE, TEXT, ANSWER), StopReason.ANSWER),
        (("nonsense",), StopReason.MALFORMED),
        ((TEXT, "nonsense"), StopReason.MALFORMED),
        ((TEXT, TEXT), StopReason.SEARCH_LIMIT),
        ((TEXT, IMAGE, TEXT), StopReason.SEARCH_LIMIT),
    ],
)
async def test_how_episodes_end(texts: tuple[str, ...], stop: StopReason) -> None:
    search = PictureSearch()
    trajectory = await run(ScriptedPolicy(*texts), search=search)
    assert trajectory.stop_reason is stop
    assert [turn.text for turn in trajectory.turns] == list(texts)
    assert [turn.observation is not None for turn in trajectory.turns] == [True] * (len(texts) - 1) + [False]
    assert len(search.asked) == len(texts) - 1
    check_aligned(trajectory)


async def test_an_allowed_search_on_the_last_turn_is_the_turn_limit() -> None:
    search = PictureSearch()
    trajectory = await run(ScriptedPolicy(TEXT, IMAGE), EpisodeLimits(max_turns=2), search)
    assert trajectory.stop_reason is StopReason.TURN_LIMIT
    assert len(search.asked) == 1


async def test_every_turn_sees_all_images_so_far_and_has_a_seed_of_its_own() -> None:
    policy = ScriptedPolicy(IMAGE, ANSWER)
    await run(policy)
    assert [(pads, images) for pads, images, _, _ in policy.asked] == [(1, 1), (4, 4)]
    assert [seed for *_, seed in policy.asked] == [turn_seed(11, 0), turn_seed(11, 1)]
    assert turn_seed(11, 0) not in (turn_seed(11, 1), turn_seed(12, 0))


async def test_a_turn_cut_by_length_is_truncated_unless_its_action_is_whole() -> None:
    cut = await run(ScriptedPolicy(ANSWER), EpisodeLimits(max_turn_tokens=len(ANSWER) - 1))
    whole = await run(ScriptedPolicy(ANSWER), EpisodeLimits(max_turn_tokens=len(ANSWER)))
    assert (cut.stop_reason, whole.stop_reason) == (StopReason.TRUNCATED, StopReason.ANSWER)
    assert isinstance(whole.turns[0].action, Answer)


async def test_an_observation_that_leaves_no_room_is_not_appended() -> None:
    used = 10 + PADS + len(TEXT)
    for room, stop in ((5 + PADS, StopReason.TRUNCATED), (5 + PADS + 1, StopReason.TRUNCATED)):
        trajectory = await run(ScriptedPolicy(TEXT, ANSWER), EpisodeLimits(max_tokens=used + room))
        assert trajectory.stop_reason is stop
        check_aligned(trajectory)
    # One token of room: the observation is there and the next turn is cut after that token.
    assert len(trajectory.turns) == 2
    assert len(trajectory.token_ids) == used + room


async def test_images_beyond_the_limit_are_dropped_from_the_end_of_the_results() -> None:
    trajectory = await run(ScriptedPolicy(IMAGE, ANSWER), EpisodeLimits(max_images=3), PictureSearch(pictures=4))
    assert [image.path for image in trajectory.images] == ["post.png", "0.png", "post.png"]
    shown = trajectory.turns[0].observation
    assert shown is not None and [len(result.images) for result in shown.results] == [1]
    check_aligned(trajectory)


async def test_no_room_for_the_post_image_itself_truncates() -> None:
    trajectory = await run(ScriptedPolicy(IMAGE, ANSWER), EpisodeLimits(max_images=1))
    assert trajectory.stop_reason is StopReason.TRUNCATED
    check_aligned(trajectory)


@given(
    st.lists(st.sampled_from([TEXT, IMAGE, ANSWER, "nonsense", TEXT[:-3]]), min_size=4, max_size=4),
    st.builds(
        EpisodeLimits,
        max_turns=st.integers(1, 4),
        text_searches=st.integers(0, 2),
        image_searches=st.integers(0, 2),
        max_tokens=st.integers(15, 400),
        max_turn_tokens=st.integers(1, 80),
        max_images=st.integers(1, 6),
    ),
    st.integers(0, 5),
)
@settings(max_examples=200)
def test_budget_images_and_masks_hold_for_every_episode(texts: list[str], limits: EpisodeLimits, pictures: int) -> None:
    search = PictureSearch(pictures)
    trajectory = asyncio.run(run(ScriptedPolicy(*texts), limits, search))
    assert trajectory.done
    assert len(trajectory.turns) <= limits.max_turns
    assert len(trajectory.token_ids) <= limits.max_tokens
    assert len(trajectory.images) <= limits.max_images
    assert sum(isinstance(a, TextSearch) for a in search.asked) <= limits.text_searches
    assert sum(isinstance(a, ImageSearch) for a in search.asked) <= limits.image_searches
    check_aligned(trajectory)


async def test_a_prompt_that_fills_the_budget_is_an_error_that_names_the_post() -> None:
    policy = ScriptedPolicy(ANSWER)
    with pytest.raises(PromptTooLong, match=r"post p1.*episode\.max_tokens"):
        await run(policy, EpisodeLimits(max_tokens=14))
    assert (await run(policy, EpisodeLimits(max_tokens=15))).done


class Babbling(ScriptedPolicy):
    """Writes more than it is asked for."""

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        more = max_tokens + 1
        return Completion((101,) * more, (-0.5,) * more, ANSWER, "stop", 3)


async def test_what_is_not_the_posts_fault_is_not_told_as_a_post_too_long() -> None:
    with pytest.raises(ValueError, match="were asked for") as caught:
        await run(Babbling(ANSWER))
    assert not isinstance(caught.value, PromptTooLong)


async def test_an_aborted_request_is_no_trajectory() -> None:
    with pytest.raises(RuntimeError, match="aborted"):
        await run(ScriptedPolicy(ANSWER, finish_reason="abort"))


class Waiting:
    """A policy or search that never answers and notes that it was cancelled."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = False

    async def generate(self, *_: object, **__: object) -> Completion:
        return await self._wait()

    async def search(self, *_: object) -> Observation:
        return await self._wait()

    async def _wait(self) -> Any:
        self.started.set()
        try:
            return await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.mark.parametrize("where", ["engine", "search"])
async def test_cancelling_an_episode_cancels_what_it_waits_for(where: str) -> None:
    waiting = Waiting()
    policy = waiting if where == "engine" else ScriptedPolicy(TEXT)
    search = waiting if where == "search" else PictureSearch()
    task = asyncio.create_task(
        run_episode(
            EXAMPLE,
            policy=policy,
            codec=PadCodec(),
            search=search,
            limits=EpisodeLimits(),
            seed=0,
            trajectory_id="t",
        )
    )
    await waiting.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiting.cancelled


@pytest.mark.parametrize("where", ["engine", "search"])
async def test_at_its_deadline_an_episode_ends_with_its_whole_turns_and_cancels_what_it_waits_for(where: str) -> None:
    waiting = Waiting()
    trajectory = await run_episode(
        EXAMPLE,
        policy=waiting if where == "engine" else ScriptedPolicy(TEXT),
        codec=PadCodec(),
        search=waiting if where == "search" else PictureSearch(),
        limits=EpisodeLimits(deadline_s=0.05),
        seed=0,
        trajectory_id="late",
    )
    assert trajectory.stop_reason is StopReason.DEADLINE and waiting.cancelled
    assert len(trajectory.turns) == (0 if where == "engine" else 1)
    check_aligned(trajectory)


class Watching:
    """Notes what it is told, and whether the trajectory already had it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, str]] = []

    def turned(self, index: int, turn: Turn, trajectory: Trajectory) -> None:
        assert trajectory.turns[index] is turn and len(trajectory.turns) == index + 1 and turn.observation is None
        assert trajectory.loss_mask[-len(turn.text) :] == [1] * len(turn.text) and not trajectory.done
        self.told.append(("turned", index, turn.text))

    def searched(self, index: int, turn: Turn) -> None:
        assert turn.observation is not None
        self.told.append(("searched", index, turn.observation.results[0].text))


async def test_a_watch_is_told_of_each_turn_and_search_as_it_comes_and_changes_nothing() -> None:
    watch, bare = Watching(), await run(ScriptedPolicy(TEXT, IMAGE, ANSWER))
    watched = await run_episode(
        EXAMPLE,
        policy=ScriptedPolicy(TEXT, IMAGE, ANSWER),
        codec=PadCodec(),
        search=PictureSearch(),
        limits=EpisodeLimits(),
        seed=11,
        trajectory_id="t1",
        watch=watch,
    )
    assert watch.told == [
        ("turned", 0, TEXT), ("searched", 0, "words"), ("turned", 1, IMAGE), ("searched", 1, "words"),
        ("turned", 2, ANSWER),
    ]  # fmt: skip
    assert (watched.token_ids, watched.stop_reason) == (bare.token_ids, bare.stop_reason)


async def test_a_bug_in_the_search_stops_the_episode() -> None:
    class Broken(PictureSearch):
        async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
            raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        await run(ScriptedPolicy(TEXT), search=Broken())


def test_limits_below_the_least_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"episode\.max_turns=0"):
        EpisodeLimits(max_turns=0)


@given(st.lists(st.integers(0, 4), max_size=4), st.integers(0, 12))
def test_dropping_images_takes_them_from_the_end(counts: list[int], drop: int) -> None:
    results = tuple(
        QueryResult(str(i), "success", images=tuple(ImageRef(f"{i}_{n}", 1, 1) for n in range(count)))
        for i, count in enumerate(counts)
    )
    before = [image for result in results for image in result.images]
    kept = without_last_images(Observation(SearchKind.IMAGE, results), drop).results
    assert [image for result in kept for image in result.images] == before[: max(0, len(before) - drop)]
    assert [dataclasses.replace(r, images=()) for r in kept] == [dataclasses.replace(r, images=()) for r in results]
