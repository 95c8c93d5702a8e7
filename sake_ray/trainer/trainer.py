"""The training loop of stage 2, phase by phase: strictly on-policy GRPO over search episodes.

Knows the Protocols of `sake_ray.interfaces` and nothing of Ray, vLLM or torch. Always holds: a step
trains on at least one group, or is skipped and counted; every group of a step was sampled by the
current weights; the checkpoint of a step holds everything the next one depends on and is written
after the step's rows in the logs, so a resumed run equals an uninterrupted one (its time is in the next
step's row).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from sake_ray.algorithms.advantage import group_advantages, has_signal
from sake_ray.interfaces import CountedRollout, CountedSearch, LearnerClient, RewardClient, Stateful, Tracker
from sake_ray.metrics import JsonlLog, PhaseTimes, engine_metrics, rollout_metrics, trajectory_rows
from sake_ray.search_metrics import pool_metrics
from sake_ray.seeding import derive_seed
from sake_ray.trajectory import Trajectory, TrajectoryGroup
from sake_ray.types import Example, Progress

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Sampler(Stateful, Protocol):
    """Gives posts in a seeded order."""

    def take(self, count: int) -> list[Example]:
        """The next `count` posts."""
        ...


class Evaluator(Protocol):
    """Scores the current policy on held-out posts."""

    async def evaluate(self, step: int) -> Mapping[str, float]:
        """`eval/…` metrics."""
        ...


class Checkpoints(Protocol):
    """Where a run's state is kept."""

    async def save(self, learner: LearnerClient, state: Mapping[str, object], step: int) -> None:
        """Write a checkpoint that is whole or absent; a step that has one already keeps it."""
        ...


class Display(Protocol):
    """Shows people where the run is."""

    def phase(self, step: int, name: str) -> None:
        """A phase of a step begins."""
        ...

    def group_done(self, done: int, total: int) -> None:
        """A group of the step has been scored."""
        ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step has ended."""
        ...


@dataclass(frozen=True)
class TrainerSettings:
    """What the loop itself needs of the configuration."""

    total_steps: int
    groups_per_step: int
    group_size: int
    max_refill_rounds: int
    eval_every: int
    checkpoint_every: int
    advantage: str
    seed: int


class StopRequested(Exception):
    """The user asked the run to end; the state of the last whole step has been saved."""


@dataclass
class Trainer:
    """Coordinates rollout, rewards and learner; construct, then `await run()`."""

    settings: TrainerSettings
    rollout: CountedRollout
    rewards: RewardClient
    learner: LearnerClient
    sampler: Sampler
    evaluator: Evaluator
    checkpoints: Checkpoints
    tracker: Tracker
    trajectory_log: JsonlLog
    display: Display
    search: CountedSearch | None = None
    progress: Progress = field(default_factory=Progress)
    evaluate_first: bool = True  # False: an earlier process has evaluated the untrained policy already
    unevaluated: Mapping[str, float] | None = None  # metrics of the last step, whose evaluation a stop cut off
    on_step: Callable[[Progress], None] = lambda progress: None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _times: PhaseTimes = field(default_factory=PhaseTimes)  # since the last row was written

    def request_stop(self) -> None:
        """End the run at the next point where nothing is lost; safe to call from a signal handler."""
        self._stop.set()

    async def run(self) -> Progress:
        """Train up to `total_steps` and return where the run stands.

        Raises:
            StopRequested: `request_stop` was called.
        """
        await self.learner.publish(self.progress.policy_version)
        if self.progress.step == 0 and self.evaluate_first and self.settings.eval_every:
            self.tracker.log(await self._or_stop(self.evaluator.evaluate(0)), 0)
        if self.unevaluated is not None:
            await self._evaluate_last_step(self.unevaluated)
        while self.progress.step < self.settings.total_steps:
            await self._step()
        return self.progress

    async def _step(self) -> None:
        step, times = self.progress.step + 1, self._times
        before = self.state()

        with times.phase("rollout"):
            self.display.phase(step, "rollout")
            counts, searched = await self.rollout.counts(), await self._search_counts()
            try:
                groups, dropped = await self._or_stop(self._collect_groups(step))
            except StopRequested:
                await self.checkpoints.save(self.learner, before, self.progress.step)
                raise
            metrics = engine_metrics(counts, await self.rollout.counts())
            metrics.update(pool_metrics(searched, await self._search_counts()))

        with times.phase("advantage"):
            self._assign_advantages(groups)
            batch = [trajectory for group in groups for trajectory in group.trajectories]

        with times.phase("update"):
            self.display.phase(step, "update")
            if batch:
                metrics.update(await self.learner.update(batch))

        with times.phase("publish"):
            self.display.phase(step, "publish")
            version = self.progress.policy_version + bool(batch)
            if batch:
                metrics.update(await self.learner.publish(version))

        self._advance(step, version, groups + dropped)
        metrics.update(self._step_metrics(groups, dropped))
        await self._finish_step(step, metrics, groups + dropped)

    async def _search_counts(self) -> Mapping[str, float]:
        return await self.search.counts() if self.search is not None else {}

    async def _collect_groups(self, step: int) -> tuple[list[TrajectoryGroup], list[TrajectoryGroup]]:
        """Groups that carry a signal, up to `groups_per_step`, and those dropped because they carry none."""
        kept: list[TrajectoryGroup] = []
        dropped: list[TrajectoryGroup] = []
        for round_index in range(self.settings.max_refill_rounds + 1):
            missing = self.settings.groups_per_step - len(kept)
            if not missing:
                break
            if round_index:
                log.info("step %d: %d groups carry no signal; refill round %d", step, len(dropped), round_index)
            for group in await self._run_groups(step, len(kept) + len(dropped), self.sampler.take(missing)):
                (kept if has_signal(group.rewards) else dropped).append(group)
                self.display.group_done(len(kept), self.settings.groups_per_step)
        return kept, dropped

    async def _run_groups(self, step: int, offset: int, examples: Sequence[Example]) -> list[TrajectoryGroup]:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._run_group(step, offset + i, example)) for i, example in enumerate(examples)
            ]
        return [task.result() for task in running]

    async def _run_group(self, step: int, slot: int, example: Example) -> TrajectoryGroup:
        """Sample a post's group and score it as soon as it is whole."""
        seeds = [
            derive_seed(self.settings.seed, step, slot, example.id, sample)
            for sample in range(self.settings.group_size)
        ]
        group = await self.rollout.rollout(example, seeds=seeds)
        for trajectory, reward in zip(group.trajectories, await self.rewards.score(group.trajectories), strict=True):
            trajectory.reward = reward
        return group

    def _assign_advantages(self, groups: Sequence[TrajectoryGroup]) -> None:
        advantages = group_advantages([group.rewards for group in groups], self.settings.advantage)
        for group, values in zip(groups, advantages, strict=True):
            for trajectory, value in zip(group.trajectories, values, strict=True):
                trajectory.advantage = value

    def _advance(self, step: int, version: int, groups: Sequence[TrajectoryGroup]) -> None:
        tokens = sum(len(t.token_ids) for group in groups for t in group.trajectories)
        self.progress = replace(
            self.progress,
            step=step,
            policy_version=version,
            examples_seen=self.progress.examples_seen + len(groups),
            tokens_seen=self.progress.tokens_seen + tokens,
        )

    def _step_metrics(self, kept: list[TrajectoryGroup], dropped: list[TrajectoryGroup]) -> dict[str, float]:
        trajectories: list[Trajectory] = [t for group in kept + dropped for t in group.trajectories]
        metrics = rollout_metrics(trajectories)
        metrics["rollout/groups"] = len(kept)
        metrics["rollout/zero_signal_groups"] = len(dropped)
        metrics["rollout/staleness"] = 0.0
        metrics["train/skipped"] = float(not kept)
        metrics["train/policy_version"] = self.progress.policy_version
        if not kept:
            log.warning("step %d: no group carried a signal; the step trained nothing", self.progress.step)
        return metrics

    async def _finish_step(self, step: int, metrics: dict[str, float], groups: list[TrajectoryGroup]) -> None:
        last, times = step == self.settings.total_steps, self._times
        cut_off = False
        if last or _due(step, self.settings.eval_every):
            with times.phase("eval"):
                self.display.phase(step, "eval")
                try:
                    metrics.update(await self._or_stop(self.evaluator.evaluate(step)))
                except StopRequested:
                    cut_off = True
        self.trajectory_log.append(trajectory_rows(groups, step, "train"))
        metrics.update(times.metrics())
        metrics["rollout/tokens_per_s"] = _sampled(groups) / max(times.seconds["rollout"], 1e-9)
        if cut_off:
            self.unevaluated = metrics
        else:
            # Before the checkpoint: a resumed run writes no row of this step again, and a step whose metrics the
            # tracker refuses (NaN) must leave no checkpoint.
            self.tracker.log(metrics, step)
        self._times = PhaseTimes()
        self.on_step(self.progress)
        saved = last or _due(step, self.settings.checkpoint_every) or self._stop.is_set()
        if saved:
            with self._times.phase("checkpoint"):
                self.display.phase(step, "checkpoint")
                await self.checkpoints.save(self.learner, self.state(), step)
        if cut_off:
            raise StopRequested(f"stopped after step {step}, before its evaluation")
        self.display.step(step, metrics)
        if saved and self._stop.is_set() and not last:
            raise StopRequested(f"stopped after step {step}")

    async def _evaluate_last_step(self, metrics: Mapping[str, float]) -> None:
        """Make up for the evaluation that a stop cut off: its step's row is written only now."""
        step = self.progress.step
        self.display.phase(step, "eval")
        whole = {**metrics, **await self._or_stop(self.evaluator.evaluate(step))}
        self.unevaluated = None
        self.tracker.log(whole, step)
        self.display.step(step, whole)

    def state(self) -> dict[str, object]:
        """Everything the next step depends on, but the learner's own state."""
        return {
            "progress": {name: getattr(self.progress, name) for name in Progress.__slots__},
            "sampler": self.sampler.state_dict(),
            "seed": self.settings.seed,
            "unevaluated": None if self.unevaluated is None else dict(self.unevaluated),
        }

    async def _or_stop(self, work: Coroutine[object, object, Result]) -> Result:
        """`work`, cancelled as soon as a stop is requested."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise StopRequested(f"stopped in step {self.progress.step + 1}")
            return task.result()
        finally:
            for pending in (task, stop):
                pending.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _sampled(groups: Sequence[TrajectoryGroup]) -> int:
    return sum(t.trained_tokens for group in groups for t in group.trajectories)
