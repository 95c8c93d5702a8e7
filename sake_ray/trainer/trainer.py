"""The training loop of stage 2, phase by phase: GRPO over search episodes.

Knows the Protocols of `sake_ray.interfaces` and nothing of Ray, vLLM or torch. Always holds: a step
trains on at least one group, or is skipped and counted; no group of a step was sampled by weights more than
`max_staleness` versions old; the checkpoint of a step holds everything the next one depends on and is written
after the step's rows in the logs, so with max_staleness=0 a resumed run equals an uninterrupted one (its time is in
the next step's row); the policy with the best evaluation has a checkpoint from that evaluation on; a checkpoint for
which the disk has no room is tried again after the next step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sake_ray.algorithms.advantage import group_advantages
from sake_ray.interfaces import CountedRollout, CountedSearch, LearnerClient, RolloutCounts, Tracker
from sake_ray.metrics import JsonlLog, PhaseTimes, engine_metrics, mean, rollout_metrics, trajectory_rows
from sake_ray.search_metrics import pool_metrics
from sake_ray.trainer.checkpoint import NoRoom
from sake_ray.trainer.guard import Alert, CollapseGuard
from sake_ray.trainer.parts import Checkpoints, Display, Evaluator
from sake_ray.trainer.producer import GroupProducer, StepGroups
from sake_ray.trainer.timeline import phase_rows, worker_rows
from sake_ray.trajectory import Trajectory, TrajectoryGroup
from sake_ray.types import Progress

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class TrainerSettings:
    """What the loop itself needs of the configuration."""

    total_steps: int
    eval_every: int
    checkpoint_every: int
    advantage: str
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
    """Coordinates producer and learner; construct, then `await run()`."""

    settings: TrainerSettings
    producer: GroupProducer
    rollout: CountedRollout
    learner: LearnerClient
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
    on_step: Callable[[Progress, Mapping[str, float]], None] = lambda progress, metrics: None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _counted: tuple[RolloutCounts, Mapping[str, float]] | None = None
    _phase: str = "start"
    _last_times: dict[str, float] = field(default_factory=dict)  # seconds of the last step, by phase
    _unsaved: bool = False  # the disk had no room for the last checkpoint
    _times: PhaseTimes = field(default_factory=PhaseTimes)  # since the last row was written

    def request_stop(self) -> None:
        """End the run at the next point where nothing is lost; safe to call from a signal handler."""
        self._stop.set()

    async def run(self) -> Progress:
        """Train up to `total_steps` and return where the run stands.

        Raises:
            StopRequested: `request_stop` was called.
            Collapsed: the guard says that the policy goes wrong, and is to stop the run then.
            LearnerLost: a learner rank is gone; a new trainer goes on from the last checkpoint.
            GroupLost: group after group loses its workers.
        """
        try:
            return await self._run()
        finally:
            await self.producer.stop()

    async def _run(self) -> Progress:
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

        with times.phase("rollout"):
            self._show(step, "rollout")
            counts, searched = await self._counts_before()
            try:
                groups = await self._or_stop(self.producer.collect(self.progress.policy_version, self._show_group))
            except StopRequested:
                await self.producer.stop()  # what was begun is begun again: nothing of the step is lost
                await self.checkpoints.save(self.learner, self.state(), self.progress.step)
                raise
            self._counted = await self.rollout.counts(), await self._search_counts()
            metrics = engine_metrics(counts, self._counted[0]) | pool_metrics(searched, self._counted[1])

        with times.phase("advantage"):
            batch = self._assign_advantages(groups.kept)

        with times.phase("update"):
            self._show(step, "update")
            if batch:
                metrics.update(await self._update(step, batch))

        with times.phase("publish"):
            self._show(step, "publish")
            version = self.progress.policy_version + bool(batch)
            if batch:
                metrics.update(await self.learner.publish(version))

        self._advance(step, version, groups.all)
        self.producer.close_step()
        metrics.update(self._step_metrics(groups))
        await self._finish_step(step, metrics, groups, self._watch(step, metrics))

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

    async def _counts_before(self) -> tuple[RolloutCounts, Mapping[str, float]]:
        """What a step's own counts are counted from: where nothing runs between two steps, from its own begin."""
        if self._counted is None or not self.producer.settings.max_staleness:
            self._counted = await self.rollout.counts(), await self._search_counts()
        return self._counted

    def _show(self, step: int, phase: str) -> None:
        self._phase = phase
        self.display.phase(step, phase)

    def _show_group(self, kept: int) -> None:
        self.display.group_done(kept, self.producer.settings.groups_per_step)

    def _assign_advantages(self, groups: Sequence[TrajectoryGroup]) -> list[Trajectory]:
        """The trajectories to train on, each with its advantage."""
        advantages = group_advantages([group.rewards for group in groups], self.settings.advantage)
        for group, values in zip(groups, advantages, strict=True):
            for trajectory, value in zip(group.trainable, values, strict=True):
                trajectory.advantage = value
        return [trajectory for group in groups for trajectory in group.trainable]

    def _advance(self, step: int, version: int, groups: Sequence[TrajectoryGroup]) -> None:
        tokens = sum(len(t.token_ids) for group in groups for t in group.trajectories)
        self.progress = replace(
            self.progress,
            step=step,
            policy_version=version,
            examples_seen=self.progress.examples_seen + len(groups),
            tokens_seen=self.progress.tokens_seen + tokens,
        )

    def _step_metrics(self, groups: StepGroups) -> dict[str, float]:
        metrics = rollout_metrics([t for group in groups.all for t in group.trajectories])
        metrics["rollout/groups"] = len(groups.kept)
        metrics["rollout/zero_signal_groups"] = len(groups.void)
        metrics["rollout/given_up_groups"] = groups.given_up
        metrics |= {f"rollout/{why}_groups": float(count) for why, count in groups.returned.items()}
        metrics["rollout/staleness"] = mean(groups.staleness)
        metrics["rollout/staleness_max"] = max(groups.staleness, default=0)
        metrics["time/held_share"] = groups.held_s / max(groups.seconds, 1e-9)
        metrics["train/skipped"] = float(not groups.kept)
        metrics["train/policy_version"] = self.progress.policy_version
        if not groups.kept:
            log.warning("step %d: no group carried a signal; the step trained nothing", self.progress.step)
        return metrics

    async def _finish_step(
        self, step: int, metrics: dict[str, float], groups: StepGroups, alerts: Sequence[Alert]
    ) -> None:
        last, times = step == self.settings.total_steps, self._times
        collapsed = next((alert for alert in alerts if alert.action == "stop"), None)
        cut_off = best = False
        if last or _due(step, self.settings.eval_every):
            with times.phase("eval"):
                self._show(step, "eval")
                try:
                    metrics.update(await self._or_stop(self.evaluator.evaluate(step)))
                    best = self._is_best(step, metrics)
                except StopRequested:
                    cut_off = True
        self.trajectory_log.append(trajectory_rows(groups.all, step, "train"))
        metrics.update(self._time_metrics(groups))
        self._draw(step, times, groups.all)
        if cut_off:
            self.unevaluated = metrics
        else:
            # Before the checkpoint: a resumed run writes no row of this step again, and a step whose metrics the
            # tracker refuses (NaN) must leave no checkpoint.
            self._log(step, metrics, collapsed)
        self._last_times, self._times = dict(times.seconds), PhaseTimes()
        self.on_step(self.progress, metrics)
        ends = self._stop.is_set() or collapsed is not None
        saved = last or ends or best or self._unsaved or _due(step, self.settings.checkpoint_every)
        if saved:
            await self._save(step, self._times, must=last or ends)
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

    def _time_metrics(self, groups: StepGroups) -> dict[str, float]:
        """The step's phases, the share of it in which the learner waited for groups, and the speed of sampling."""
        metrics = self._times.metrics()
        waited, whole = self._times.seconds["rollout"], max(metrics["time/step_s"], 1e-9)
        sampling = whole if self.producer.settings.max_staleness else max(waited, 1e-9)
        sampled = sum(t.trained_tokens for group in groups.all for t in group.trajectories)
        return metrics | {"time/wait_share": waited / whole, "rollout/tokens_per_s": sampled / sampling}

    async def _save(self, step: int, times: PhaseTimes, *, must: bool = True) -> None:
        """Write a checkpoint; one that only the rhythm asks for may fail for want of room, and is then made up for."""
        with times.phase("checkpoint"):
            self._show(step, "checkpoint")
            try:
                await self.checkpoints.save(self.learner, self.state(), step)
                self._unsaved = False
            except NoRoom as error:
                if must:
                    raise
                self._unsaved = True
                log.error("%s. The run goes on, and tries again after the next step", error)
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
        self._show(step, "eval")
        with times.phase("eval"):
            whole = {**metrics, **await self._or_stop(self.evaluator.evaluate(step))}
        self.unevaluated = None
        best = self._is_best(step, whole)
        self._draw(step, times)
        self.tracker.log(whole, step)
        if best:  # its checkpoint is there; that it is the best is not known yet
            await self._save(step, times)
        self.display.step(step, whole)

    def view(self) -> dict[str, object]:
        """Where the run stands at this moment, as JSON-able values for people who watch it."""
        return {
            "step": self.progress.step,
            "total_steps": self.settings.total_steps,
            "policy_version": self.progress.policy_version,
            "phase": self._phase,
            "groups": self.producer.ledger.counts(),
            "returned": dict(self.producer.ledger.returns),
            "staleness": {str(age): count for age, count in sorted(self.producer.ages().items())},
            "times": self._last_times,
        }

    def state(self) -> dict[str, object]:
        """Everything the next step depends on, but the learner's own state."""
        return {
            "progress": {name: getattr(self.progress, name) for name in Progress.__slots__},
            **self.producer.state_dict(),
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
