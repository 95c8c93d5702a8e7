"""Training with pools that run: a trainer made of settings and a checkpoint, and made anew when ranks are lost.

Knows nothing of how pools are started or of signals. Always holds: a run goes on from its own newest checkpoint, in
this process as in another; rollout workers, search and rewards keep running while learner ranks are started again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.display import RunDisplay
from launch.held_out import held_out_scores
from launch.job_data import DataSet
from launch.pools import Pools
from launch.run_checkpoints import BEST_BY, RunCheckpoints, find_checkpoint
from sake_ray.config.config import Config
from sake_ray.config.guard_section import GuardConfig
from sake_ray.config.identity import identity
from sake_ray.data.sampler import ExampleSampler
from sake_ray.interfaces import LearnerLost
from sake_ray.metrics import JsonlLog, JsonlTracker
from sake_ray.tracking import make_trackers
from sake_ray.trainer.checkpoint import Checkpoint
from sake_ray.trainer.evaluator import GreedyEvaluator
from sake_ray.trainer.guard import CollapseGuard
from sake_ray.trainer.producer import GroupProducer, ProducerSettings
from sake_ray.trainer.trainer import Trainer, TrainerSettings
from sake_ray.types import Progress

log = logging.getLogger(__name__)
ALERTS, TIMELINE = "alerts.jsonl", "timeline.jsonl"


@dataclass(frozen=True)
class Parts:
    """What a trainer is made of beside a checkpoint.

    `weights` say how often each training post comes; `stepped` is told the metrics of every step.
    """

    config: Config
    data: DataSet
    pools: Pools
    run_dir: Path
    display: RunDisplay
    weights: Sequence[float] | None = None
    stepped: Callable[[Mapping[str, float]], None] = lambda metrics: None


async def train(parts: Parts, resumed: Checkpoint | None, begun: Callable[[Trainer], None]) -> None:
    """Train to the end, and write the policy to `policy` in the run's folder.

    `begun` is told each trainer there is, the first and those after learner ranks were lost.

    Raises:
        LearnerLost: ranks were lost `learner.max_restarts` times in a row without a step in between.
    """
    learner, restarts = parts.pools.learner, 0
    while True:
        first, reached = 0 if resumed is None else resumed.step, 0
        try:
            if restarts:
                await learner.restart()
            trainer = make_trainer(parts, resumed)
            if resumed is not None:
                await learner.load(resumed.folder / "learner")
                log.info("resumed from %s", resumed.folder)
            trainer.best = await run_checkpoints(parts.config, parts.run_dir).go_on(learner, resumed)
            begun(trainer)
            try:
                await trainer.run()
            finally:
                reached = trainer.progress.step
            await learner.export(parts.run_dir / "policy")
            return
        except LearnerLost as lost:
            restarts = 1 if reached > first else restarts + 1
            if restarts > parts.config.learner.max_restarts:
                raise
            log.error("%s. The ranks are started again (%d in a row without a step)", lost, restarts)
            resumed = _checkpoint_to_go_back_to(parts.config, resumed)


def _checkpoint_to_go_back_to(config: Config, begun_from: Checkpoint | None) -> Checkpoint | None:
    """Where a run goes on whose learner was lost: its own newest checkpoint, else what it began from."""
    own = find_checkpoint(replace(config, trainer=replace(config.trainer, resume="auto")))
    return own or begun_from


def make_trainer(parts: Parts, resumed: Checkpoint | None) -> Trainer:
    """The trainer of a job, its state restored from `resumed`."""
    config, data, pools, run_dir = parts.config, parts.data, parts.pools, parts.run_dir
    step = resumed.step if resumed else None
    unevaluated = resumed.state["unevaluated"] if resumed else None
    # A step whose evaluation is still to come has its row, and that evaluation's, written by this process.
    whole = step if step is None or unevaluated is None else step - 1
    settings = config.trainer
    logs = JsonlLog(run_dir / "trajectories.jsonl", resume_after=step)
    guard = make_guard(config)
    if guard is not None and resumed and resumed.state.get("guard") is not None:
        guard.load_state_dict(resumed.state["guard"])
    eval_log = JsonlLog(run_dir / "eval_trajectories.jsonl", resume_after=whole)
    trackers = make_trackers(
        config.tracking.backends,
        project=config.tracking.project,
        run_dir=run_dir,
        config=config.to_dict(),
        resume_after=whole,
    )
    producer = GroupProducer(
        producer_settings(config),
        pools.rollout,
        pools.rewards,
        ExampleSampler(data.train, config.run.seed, parts.weights),
        {post.id: post for post in data.train}.__getitem__,
    )
    progress = Progress()
    if resumed:
        producer.load_state_dict(resumed.state)
        progress = Progress(**resumed.state["progress"])
    return Trainer(
        TrainerSettings(
            total_steps=settings.total_steps,
            eval_every=settings.eval_every,
            checkpoint_every=settings.checkpoint_every,
            advantage=config.algorithm.advantage,
            best_by=BEST_BY,
        ),
        producer=producer,
        rollout=pools.rollout,
        learner=pools.learner,
        evaluator=GreedyEvaluator(
            pools.rollout,
            data.held_out,
            held_out_scores,
            min_pixels=config.data.min_pixels,
            max_pixels=config.data.max_pixels,
            trajectory_log=eval_log,
            on_post=parts.display.evaluated,
        ),
        checkpoints=run_checkpoints(config, run_dir),
        tracker=JsonlTracker(JsonlLog(run_dir / "metrics.jsonl", resume_after=whole), trackers),
        trajectory_log=logs,
        display=parts.display,
        search=pools.search,
        progress=progress,
        evaluate_first=resumed is None,
        unevaluated=unevaluated,
        guard=guard,
        alert_log=JsonlLog(run_dir / ALERTS, resume_after=step),
        timeline=JsonlLog(run_dir / TIMELINE, resume_after=step),
        on_step=lambda progress, metrics: parts.stepped(metrics),
    )


def producer_settings(config: Config) -> ProducerSettings:
    """How groups are begun and kept."""
    trainer = config.trainer
    return ProducerSettings(
        groups_per_step=trainer.groups_per_step,
        group_size=config.rollout.group_size,
        seed=config.run.seed,
        max_staleness=trainer.max_staleness,
        groups_ahead=config.rollout.groups_ahead,
        attempts=trainer.group_attempts,
        refills=round(trainer.refill * trainer.groups_per_step),
    )


def run_checkpoints(config: Config, run_dir: Path) -> RunCheckpoints:
    """The checkpoints of a job's run folder."""
    settings = config.trainer
    return RunCheckpoints(run_dir / "checkpoints", settings.keep_checkpoints, identity(config), settings.export_best)


def make_guard(config: Config) -> CollapseGuard | None:
    """The collapse guard of a job; an episode that allows no search cannot stop searching."""
    settings: GuardConfig = config.guard
    if settings.action == "off":
        return None
    if not config.episode.text_searches and not config.episode.image_searches:
        settings = replace(settings, search_low=0.0)
    return CollapseGuard(settings)
