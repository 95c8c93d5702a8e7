"""The training loop of stage 2, phase by phase: strictly on-policy GRPO over search episodes.

Knows the Protocols of `sake_ray.interfaces` and nothing of Ray, vLLM or torch. Always holds: a step
trains on at least one group, or is skipped and counted; every group of a step was sampled by the
current weights; the checkpoint of a step holds everything the next one depends on and is written
after the step's rows in the logs, so a resumed run equals an uninterrupted one (its time is in the next
step's row); the policy with the best evaluation has a checkpoint from that evaluation on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sake_ray.algorithms.advantage import group_advantages, has_signal
from sake_ray.interfaces import CountedRollout, CountedSearch, LearnerClient, RewardClient, Tracker
from sake_ray.metrics import JsonlLog, PhaseTimes, engine_metrics, rollout_metrics, trajectory_rows
from sake_ray.search_metrics import pool_metrics
from sake_ray.seeding import derive_seed
from sake_ray.trainer.guard import Alert, CollapseGuard
from sake_ray.trainer.parts import Checkpoints, Display, Evaluator, Sampler
from sake_ray.trainer.timeline import phase_rows, worker_rows
from sake_ray.trajectory import Trajectory, TrajectoryGroup
from sake_ray.types import Example, Progress

log = logging.getLogger(__name__)
Result = TypeVar("Result")


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
    best_by: str = ""  # the evaluation's metric that the best checkpoint has the highest of; empty: none is kept


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation so far; of equals the earliest."""

    step: int
    value: float


class StopRequested(Exception):
    """The user asked the run to end; the state of the last whole step has been saved."""


class Collapsed(StopRequested):
    """The guard ended the run; the state of its last step has been saved where every number of it was finite."""


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
    best: Best | None = None
    guard: CollapseGuard | None = None
    alert_log: JsonlLog | None = None
    timeline: JsonlLog | None = None
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
            Collapsed: the guard says that the policy goes wrong, and is to stop the run then.
        """
        await self.learner.publish(self.progress.policy_version)
        if self.progress.step == 0 and self.evaluate_first and self.settings.eval_every:
            await self._evaluate_untrained()
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
                metrics.update(await self._update(step, batch))

        with times.phase("publish"):
            self.display.phase(step, "publish")
            version = self.progress.policy_version + bool(batch)
            if batch:
                metrics.update(await self.learner.publish(version))

        self._advance(step, version, groups + dropped)
        metrics.update(self._step_metrics(groups, dropped))
        await self._finish_step(step, metrics, groups + dropped, self._watch(step, metrics))

    async def _update(self, step: int, batch: Sequence[Trajectory]) -> Mapping[str, float]:
        try:
            return await self.learner.update(batch)
        except FloatingPointError as error:
            if self.guard is not None:
                self._tell(self.guard.broke(step, error))
            raise

    def _watch(self, step: int, metrics: dict[str, float]) -> list[Alert]:
        """What the guard has to say of a step; how many of its rules are broken joins the metrics."""
        if self.guard is None:
            return []
        alerts = self.guard.check(step, metrics)
        metrics["train/alerts"] = float(self.guard.lasting)
        self._tell(alerts)
        return alerts

    def _tell(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            log.warning("step %d: guard %s: %s", alert.step, alert.name, alert.message)
        if alerts and self.alert_log is not None:
            self.alert_log.append([alert.row() for alert in alerts])

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
        began, started = time.time(), time.perf_counter()
        rewards = await self.rewards.score(group.trajectories)
        took = time.perf_counter() - started
        for trajectory, reward in zip(group.trajectories, rewards, strict=True):
            trajectory.reward, trajectory.score_began_s, trajectory.score_s = reward, began, took
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

    async def _finish_step(
        self, step: int, metrics: dict[str, float], groups: list[TrajectoryGroup], alerts: Sequence[Alert]
    ) -> None:
        last, times = step == self.settings.total_steps, self._times
        collapsed = next((alert for alert in alerts if alert.action == "stop"), None)
        cut_off = best = False
        if last or _due(step, self.settings.eval_every):
            with times.phase("eval"):
                self.display.phase(step, "eval")
                try:
                    metrics.update(await self._or_stop(self.evaluator.evaluate(step)))
                    best = self._is_best(step, metrics)
                except StopRequested:
                    cut_off = True
        self.trajectory_log.append(trajectory_rows(groups, step, "train"))
        metrics.update(times.metrics())
        metrics["rollout/tokens_per_s"] = _sampled(groups) / max(times.seconds["rollout"], 1e-9)
        self._draw(step, times, groups)
        if cut_off:
            self.unevaluated = metrics
        else:
            # Before the checkpoint: a resumed run writes no row of this step again, and a step whose metrics the
            # tracker refuses (NaN) must leave no checkpoint.
            self._log(step, metrics, collapsed)
        self._times = PhaseTimes()
        self.on_step(self.progress)
        ends = self._stop.is_set() or collapsed is not None
        saved = last or ends or best or _due(step, self.settings.checkpoint_every)
        if saved:
            await self._save(step, self._times)
        if not cut_off:
            self.display.step(step, metrics)
        if collapsed is not None and not last:
            raise Collapsed(f"stopped after step {step} by the guard ({collapsed.name}): {collapsed.message}")
        if cut_off:
            raise StopRequested(f"stopped after step {step}, before its evaluation")
        if saved and self._stop.is_set() and not last:
            raise StopRequested(f"stopped after step {step}")

    def _log(self, step: int, metrics: Mapping[str, float], collapsed: Alert | None) -> None:
        try:
            self.tracker.log(metrics, step)
        except ValueError as error:
            if collapsed is None:
                raise
            # A number that is not finite: what made it is in the weights, so the checkpoint before is the last one.
            raise Collapsed(f"stopped in step {step} by the guard ({collapsed.name}): {collapsed.message}") from error

    async def _save(self, step: int, times: PhaseTimes) -> None:
        with times.phase("checkpoint"):
            self.display.phase(step, "checkpoint")
            await self.checkpoints.save(self.learner, self.state(), step)
        self._draw(step, times)

    def _is_best(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether no earlier evaluation was as good; remembers it."""
        value = metrics.get(self.settings.best_by)
        if value is None or (self.best is not None and value <= self.best.value):
            return False
        self.best = Best(step, value)
        return True

    def _draw(self, step: int, times: PhaseTimes, groups: Sequence[TrajectoryGroup] = ()) -> None:
        """Write when what went on, once."""
        if self.timeline is not None:
            busy = worker_rows((trajectory for group in groups for trajectory in group.trajectories), step)
            self.timeline.append(busy + phase_rows(times.spans, step))
        times.spans.clear()

    async def _evaluate_untrained(self) -> None:
        """The baseline: the row of step 0, and its checkpoint, the best until an evaluation is better."""
        times = PhaseTimes()
        with times.phase("eval"):
            metrics = await self._or_stop(self.evaluator.evaluate(0))
        best = self._is_best(0, metrics)
        self._draw(0, times)
        self.tracker.log(metrics, 0)
        if best:
            with times.phase("checkpoint"):
                await self.checkpoints.save(self.learner, self.state(), 0)
            self._draw(0, times)

    async def _evaluate_last_step(self, metrics: Mapping[str, float]) -> None:
        """Make up for the evaluation that a stop cut off: its step's row is written only now."""
        step, times = self.progress.step, PhaseTimes()
        self.display.phase(step, "eval")
        with times.phase("eval"):
            whole = {**metrics, **await self._or_stop(self.evaluator.evaluate(step))}
        self.unevaluated = None
        best = self._is_best(step, whole)
        self._draw(step, times)
        self.tracker.log(whole, step)
        if best:  # its checkpoint is there; that it is the best is not known yet
            await self._save(step, times)
        self.display.step(step, whole)

    def state(self) -> dict[str, object]:
        """Everything the next step depends on, but the learner's own state."""
        return {
            "progress": {name: getattr(self.progress, name) for name in Progress.__slots__},
            "sampler": self.sampler.state_dict(),
            "seed": self.settings.seed,
            "unevaluated": None if self.unevaluated is None else dict(self.unevaluated),
            "best": None if self.best is None else {"step": self.best.step, "value": self.best.value},
            "guard": None if self.guard is None else self.guard.state_dict(),
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
