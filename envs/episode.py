"""One episode from prompt to stop reason: the loop between the policy and its environment.

Knows nothing of vLLM, Ray, tokenizers or rewards. Always holds: the trajectory grows only by whole
completions and whole observations, so its images and image pads match however it ends, and it never
exceeds `max_tokens` expanded ids; cancelling the task, or its deadline, cancels the engine's or the tool's
call; nothing else is caught here, so a bug of ours stops the run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from dataclasses import dataclass
from typing import Protocol

from envs.search_env import SearchEnv
from sake_ray.actions import ActionLimits, parse_action
from sake_ray.interfaces import Codec, PolicyClient, SearchClient
from sake_ray.seeding import derive_seed
from sake_ray.trajectory import Segment, Trajectory, Turn
from sake_ray.types import (
    Answer,
    Completion,
    Example,
    ImageSearch,
    Malformed,
    Observation,
    StopReason,
    TextSearch,
)


class PromptTooLong(ValueError):
    """A post whose first prompt leaves no room for an answer: the post's fault, not that of who plays it."""


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """Bounds of one episode. Token limits count expanded ids; `max_images` counts the post's own image too.

    `deadline_s` seconds after its begin an episode is cut off; 0: never.
    """

    max_turns: int = 3
    text_searches: int = 1
    image_searches: int = 1
    max_queries: int = 5
    max_tokens: int = 16_384
    max_turn_tokens: int = 1_024
    max_images: int = 8
    deadline_s: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name.endswith("_searches") or field.name == "deadline_s" else 1
            value = getattr(self, field.name)
            if value < least:
                raise ValueError(f"episode.{field.name}={value}: must be at least {least}")


class EpisodeWatch(Protocol):
    """Whoever follows an episode while it is played; what it is shown belongs to the episode."""

    def turned(self, index: int, turn: Turn, trajectory: Trajectory) -> None:
        """The policy has written turn `index`, which is the last of the trajectory."""
        ...

    def searched(self, index: int, turn: Turn) -> None:
        """The search of turn `index` was answered, with `turn.observation`."""
        ...


async def run_episode(
    example: Example,
    *,
    policy: PolicyClient,
    codec: Codec,
    search: SearchClient,
    limits: EpisodeLimits,
    seed: int,
    trajectory_id: str,
    watch: EpisodeWatch | None = None,
) -> Trajectory:
    """Run one episode for a post and return its record, with a stop reason and no reward; `watch` follows it.

    A turn that ends by length without an action, an observation that leaves no room for a further
    token, or one with more images than fit, ends the episode as TRUNCATED; such an observation is not appended.
    A search that is not allowed ends it as SEARCH_LIMIT, an allowed one on the last turn as TURN_LIMIT. At its deadline
    it ends as DEADLINE, with the turns that were whole by then.

    Raises:
        PromptTooLong: the first prompt alone fills the budget.
        ValueError: the first prompt has more images than fit, or the engine returned more than asked.
        RuntimeError: the engine aborted the request (to be run again by the caller).
    """
    env = SearchEnv(example, search, text_searches=limits.text_searches, image_searches=limits.image_searches)
    trajectory = Trajectory(trajectory_id, example)
    trajectory.append_observation(_first_segment(example, codec, limits))
    clock = asyncio.timeout(limits.deadline_s or None)
    try:
        async with clock:
            await _play(trajectory, policy, codec, env, limits, seed, watch)
    except TimeoutError:
        if not clock.expired():
            raise
        trajectory.finish(StopReason.DEADLINE)
    return trajectory


async def _play(
    trajectory: Trajectory,
    policy: PolicyClient,
    codec: Codec,
    env: SearchEnv,
    limits: EpisodeLimits,
    seed: int,
    watch: EpisodeWatch | None,
) -> None:
    """Turn after turn, to the end."""
    action_limits = ActionLimits(max_queries=limits.max_queries)
    while not trajectory.done:
        turn_index = len(trajectory.turns)
        began, started = time.time(), time.perf_counter()
        completion = await _generate(trajectory, policy, limits, turn_seed(seed, turn_index))
        action = parse_action(completion.text, action_limits)
        turn = Turn(completion.text, action, generate_s=time.perf_counter() - started, began_s=began)
        trajectory.append_completion(completion)
        trajectory.turns.append(turn)
        if watch is not None:
            watch.turned(turn_index, turn, trajectory)
        match turn.action:
            case Answer():
                trajectory.finish(StopReason.ANSWER)
            case Malformed():
                cut = completion.finish_reason == "length"
                trajectory.finish(StopReason.TRUNCATED if cut else StopReason.MALFORMED)
            case asked if not env.allows(asked):
                trajectory.finish(StopReason.SEARCH_LIMIT)
            case TextSearch() | ImageSearch() if turn_index + 1 >= limits.max_turns:
                trajectory.finish(StopReason.TURN_LIMIT)
            case TextSearch() | ImageSearch() as asked:
                turn.search_began_s = time.time()
                _show(trajectory, turn, await env.step(asked), codec, limits)
                if watch is not None and turn.observation is not None:
                    watch.searched(turn_index, turn)


def turn_seed(seed: int, turn: int) -> int:
    """The sampling seed of one turn: it depends on the trajectory's seed and the turn's number alone."""
    return derive_seed(seed, "turn", turn)


def _first_segment(example: Example, codec: Codec, limits: EpisodeLimits) -> Segment:
    """The first prompt; one that leaves no room would make a trajectory without a single trained token."""
    segment = codec.prompt(example)
    if len(segment.token_ids) >= limits.max_tokens:
        raise PromptTooLong(
            f"post {example.id}: its prompt takes {len(segment.token_ids)} tokens of episode.max_tokens="
            f"{limits.max_tokens}; raise episode.max_tokens or lower data.max_pixels"
        )
    if len(segment.images) > limits.max_images:
        raise ValueError(
            f"post {example.id}: its prompt has {len(segment.images)} images, episode.max_images={limits.max_images}"
        )
    return segment


async def _generate(trajectory: Trajectory, policy: PolicyClient, limits: EpisodeLimits, seed: int) -> Completion:
    room = min(limits.max_turn_tokens, limits.max_tokens - len(trajectory.token_ids))
    completion = await policy.generate(trajectory.short_ids, trajectory.images, max_tokens=room, seed=seed)
    if completion.finish_reason == "abort":
        raise RuntimeError(f"trajectory {trajectory.id}: the engine aborted turn {len(trajectory.turns) + 1}")
    if len(completion.token_ids) > room:
        raise ValueError(
            f"trajectory {trajectory.id}: the engine returned {len(completion.token_ids)} tokens, {room} were asked for"
        )
    return completion


def _show(trajectory: Trajectory, turn: Turn, observation: Observation, codec: Codec, limits: EpisodeLimits) -> None:
    """Append what the policy is shown, or end the episode as truncated where it does not fit."""
    shown = observation
    segment = codec.observation(trajectory.example, shown, after_ids=trajectory.token_ids)
    excess = len(trajectory.images) + len(segment.images) - limits.max_images
    if excess > 0:
        shown = without_last_images(observation, excess)
        segment = codec.observation(trajectory.example, shown, after_ids=trajectory.token_ids)
    too_many_images = len(trajectory.images) + len(segment.images) > limits.max_images
    # One token of room at least: an observation nobody can answer would train nothing.
    if too_many_images or len(trajectory.token_ids) + len(segment.token_ids) >= limits.max_tokens:
        trajectory.finish(StopReason.TRUNCATED)
        return
    turn.observation = shown
    trajectory.append_observation(segment)


def without_last_images(observation: Observation, count: int) -> Observation:
    """The observation less its last `count` result images (fewer when it has fewer)."""
    results = list(observation.results)
    for index in range(len(results) - 1, -1, -1):
        dropped = min(count, len(results[index].images))
        kept = results[index].images[: len(results[index].images) - dropped]
        results[index] = dataclasses.replace(results[index], images=kept)
        count -= dropped
    return dataclasses.replace(observation, results=tuple(results))
