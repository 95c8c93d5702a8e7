"""Held-out evaluation during training: greedy episodes, strict scores and search behaviour.

Knows nothing of how entities are matched or posts sliced (`score_posts` is handed in) nor where episodes run. Always
holds: every post counts, a malformed or truncated episode as an empty answer; predicted boxes are scored
in original pixels; an evaluation that was cut short leaves nothing in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sake_ray.data.images import answer_in_original
from sake_ray.interfaces import RolloutClient
from sake_ray.metrics import JsonlLog, mean, search_metrics, trajectory_rows
from sake_ray.trajectory import Trajectory, TrajectoryGroup
from sake_ray.types import Box, Example, StopReason


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted entity of a post; `box` in original pixels, None when it claims not to be visible."""

    text: str
    type: str
    box: Box | None


ScorePosts = Callable[[Sequence[Sequence[Prediction]], Sequence[Example]], Mapping[str, float]]
"""Predictions and examples, in order → `gmner_f1`, `mner_f1`, … in 0..1, of all and slices (`gmner_f1_unseen`, …)."""


def predictions(trajectory: Trajectory, *, min_pixels: int, max_pixels: int) -> list[Prediction]:
    """The entities of the trajectory's answer, boxes scaled back to original pixels; [] without an answer."""
    if trajectory.answer is None:
        return []
    image = trajectory.example.image
    said = answer_in_original(
        trajectory.answer, (image.width, image.height), min_pixels=min_pixels, max_pixels=max_pixels
    )
    return [Prediction(text, type_, None if box is None else Box(*box)) for text, type_, box in said]


class GreedyEvaluator:
    """Runs one greedy episode a post on the rollout pool and scores them all."""

    def __init__(
        self,
        rollout: RolloutClient,
        examples: Sequence[Example],
        score_posts: ScorePosts,
        *,
        min_pixels: int,
        max_pixels: int,
        trajectory_log: JsonlLog | None = None,
        on_post: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._rollout = rollout
        self._examples = list(examples)
        self._score_posts = score_posts
        self._pixels = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self._log = trajectory_log
        self._on_post = on_post

    async def evaluate(self, step: int) -> Mapping[str, float]:
        """`eval/…` metrics: F1 over all posts and over slices of them, and search rates."""
        done = 0

        async def run(example: Example) -> TrajectoryGroup:
            nonlocal done
            group = await self._rollout.rollout(example, seeds=[0], greedy=True)
            done += 1
            self._on_post(done, len(self._examples))
            return group

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(run(example)) for example in self._examples]
        groups = [task.result() for task in running]
        if self._log is not None:
            self._log.append(trajectory_rows(groups, step, "eval"))
        return self.metrics([group.trajectories[0] for group in groups])

    def metrics(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """The metrics of finished trajectories."""
        metrics = {
            "eval/answered": mean([t.stop_reason is StopReason.ANSWER for t in trajectories]),
            "eval/posts": float(len(trajectories)),
        }
        said = [predictions(t, **self._pixels) for t in trajectories]
        scores = self._score_posts(said, [t.example for t in trajectories])
        metrics |= {f"eval/{name}": value for name, value in scores.items()}
        return metrics | {
            name.replace("search/", "eval/search_"): value for name, value in search_metrics(trajectories).items()
        }
