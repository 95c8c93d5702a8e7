"""The RL job: from a configuration to a trained policy. The `rl_*.py` scripts differ only in defaults.

Wires data, actors and trainer; knows nothing of how any of them works. Always holds: the job ends with
a checkpoint, on success, on Ctrl-C and on `ray job stop` alike, and leaves no actor behind; it goes on
only from a checkpoint that was made with the settings it has.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import shutil
import signal
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import ray

from actors.placement import init_ray
from launch.display import RunDisplay
from launch.held_out import strict_scores
from launch.job_data import DataSet, load_data
from launch.pools import Pools, running_pools
from launch.starting import StageLine, starting_point
from sake_ray.config.cli import config_or_exit
from sake_ray.config.config import Config
from sake_ray.config.identity import differences, identity
from sake_ray.config.plan import describe_plan, totals
from sake_ray.data.sampler import ExampleSampler
from sake_ray.interfaces import LearnerClient
from sake_ray.metrics import JsonlLog, JsonlTracker
from sake_ray.report import draw_curves, read_metrics, table_text
from sake_ray.tracking import make_trackers
from sake_ray.trainer import checkpoint
from sake_ray.trainer.checkpoint import Checkpoint, CheckpointError, CheckpointStore
from sake_ray.trainer.evaluator import GreedyEvaluator
from sake_ray.trainer.trainer import StopRequested, Trainer, TrainerSettings
from sake_ray.types import Progress

log = logging.getLogger(__name__)
REFUSED, STOPPED = 2, 130
Result = TypeVar("Result")
_SETTINGS = "settings"  # the name of a run's settings in the state of its checkpoints


def main(job: str, defaults: Mapping[str, Any] | None = None) -> int:
    """Run a job with the command line's settings; returns the process's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    config = config_or_exit(sys.argv[1:], job=job, defaults=defaults)
    try:
        resumed = find_checkpoint(config)  # before anything is started or written
    except CheckpointError as error:
        sys.stderr.write(f"{job}: {error}\n")
        return REFUSED
    cpus, _ = totals(describe_plan(config))
    scratch = init_ray(num_cpus=max(2, round(cpus + 0.5)))
    try:
        return asyncio.run(run_job(config, resumed))
    finally:
        ray.shutdown()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


async def run_job(config: Config, resumed: Checkpoint | None) -> int:
    """Train, from `resumed` on if there is one; on a stop request end cleanly with a checkpoint."""
    run_dir = config.run_dir.resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    display = RunDisplay(run_dir, config.trainer.total_steps)
    stop, training = asyncio.Event(), asyncio.Event()
    _on_signals(stop)
    try:
        data = load_data(config)
        log.info("%d training posts, %d held-out posts from %s", len(data.train), len(data.held_out), data.root)
        stages = await _until(stop, training, _train(config, data, run_dir, display, resumed, stop, training))
    except StopRequested as stopped:
        log.info("%s; run the same command to go on from there", stopped)
        display.close("stopped")
        return STOPPED
    display.close("done")
    _report(config, run_dir, stages)
    return 0


async def _train(
    config: Config,
    data: DataSet,
    run_dir: Path,
    display: RunDisplay,
    resumed: Checkpoint | None,
    stop: asyncio.Event,
    training: asyncio.Event,
) -> tuple[StageLine, ...]:
    start = await starting_point(config, data, display)
    async with running_pools(config, model=start.model, data_root=data.root, run_dir=run_dir) as pools:
        data = replace(data, train=start.train)
        trainer = make_trainer(config, data, pools, run_dir, display, resumed, start.weights)
        if resumed is not None:
            await pools.learner.load(resumed.folder / "learner")
            log.info("resumed from %s", resumed.folder)
        watcher = asyncio.create_task(_pass_on(stop, training, trainer))
        try:
            await trainer.run()
        finally:
            watcher.cancel()
        await pools.learner.export(run_dir / "policy")
    return start.stages


def make_trainer(
    config: Config,
    data: DataSet,
    pools: Pools,
    run_dir: Path,
    display: RunDisplay,
    resumed: Checkpoint | None,
    weights: Sequence[float] | None = None,
) -> Trainer:
    """The trainer of a job, its state restored from `resumed`; `weights` say how often each training post comes."""
    step = resumed.step if resumed else None
    unevaluated = resumed.state["unevaluated"] if resumed else None
    # A step whose evaluation is still to come has its row, and that evaluation's, written by this process.
    whole = step if step is None or unevaluated is None else step - 1
    settings = config.trainer
    logs = JsonlLog(run_dir / "trajectories.jsonl", resume_after=step)
    eval_log = JsonlLog(run_dir / "eval_trajectories.jsonl", resume_after=whole)
    trackers = make_trackers(
        config.tracking.backends,
        project=config.tracking.project,
        run_dir=run_dir,
        config=config.to_dict(),
        resume_after=whole,
    )
    sampler = ExampleSampler(data.train, config.run.seed, weights)
    progress = Progress()
    if resumed:
        sampler.load_state_dict(resumed.state["sampler"])
        progress = Progress(**resumed.state["progress"])
    return Trainer(
        TrainerSettings(
            total_steps=settings.total_steps,
            groups_per_step=settings.groups_per_step,
            group_size=config.rollout.group_size,
            max_refill_rounds=settings.max_refill_rounds,
            eval_every=settings.eval_every,
            checkpoint_every=settings.checkpoint_every,
            advantage=config.algorithm.advantage,
            seed=config.run.seed,
        ),
        rollout=pools.rollout,
        rewards=pools.rewards,
        learner=pools.learner,
        sampler=sampler,
        evaluator=GreedyEvaluator(
            pools.rollout,
            data.held_out,
            strict_scores,
            min_pixels=config.data.min_pixels,
            max_pixels=config.data.max_pixels,
            trajectory_log=eval_log,
            on_post=display.evaluated,
        ),
        checkpoints=RunCheckpoints(run_dir / "checkpoints", settings.keep_checkpoints, identity(config)),
        tracker=JsonlTracker(JsonlLog(run_dir / "metrics.jsonl", resume_after=whole), trackers),
        trajectory_log=logs,
        display=display,
        search=pools.search,
        progress=progress,
        evaluate_first=resumed is None,
        unevaluated=unevaluated,
    )


@dataclass
class RunCheckpoints:
    """The checkpoints of a run: the learner's state in `learner/`, the trainer's and the run's settings beside it."""

    folder: Path
    keep: int
    settings: Mapping[str, object]

    async def save(self, learner: LearnerClient, state: Mapping[str, object], step: int) -> None:
        """Write the checkpoint of `step` unless it is there already (a stop right after a periodic one)."""
        if (self.folder / f"step-{step:06d}").exists():
            return
        began = time.monotonic()
        whole = {**state, _SETTINGS: dict(self.settings)}
        await CheckpointStore(self.folder, self.keep).save(step, whole, lambda folder: learner.save(folder / "learner"))
        log.info("checkpoint of step %d written in %.1f s", step, time.monotonic() - began)


def find_checkpoint(config: Config) -> Checkpoint | None:
    """The checkpoint a run goes on from, by trainer.resume; None when it starts afresh.

    Raises:
        CheckpointError: it is damaged or was made with other settings, or there is one and there must be none.
    """
    resume, total = config.trainer.resume, config.trainer.total_steps
    store = CheckpointStore(config.run_dir.resolve() / "checkpoints", config.trainer.keep_checkpoints)
    if resume == "never":
        if store.root.exists() and any(store.root.iterdir()):
            raise CheckpointError(
                f"trainer.resume=never, but {store.root} holds checkpoints; choose another run.dir or remove them"
            )
        return None
    found = store.find_latest() if resume == "auto" else checkpoint.load(Path(resume))
    if found is None:
        return None
    _check_same_settings(config, found)
    if found.step >= total:
        log.info(
            "%s is of step %d, trainer.total_steps=%d: nothing is left to train; raise trainer.total_steps to go on, "
            "or choose another run.dir for a new run", found.folder, found.step, total,
        )  # fmt: skip
    _set_aside_later(store.root, found)
    return found


def _check_same_settings(config: Config, found: Checkpoint) -> None:
    """Refuse to go on with settings that `found` was not made with: the result would be neither run's."""
    if _SETTINGS not in found.state:
        what = "does not say with which settings it was made (an earlier version wrote it)"
    elif changed := differences(found.state[_SETTINGS], identity(config)):
        what = f"was made with other settings: {', '.join(changed)}"
    else:
        return
    way_out = "choose another run.dir, or start anew with trainer.resume=never after removing its checkpoints"
    if config.trainer.resume != "auto":
        way_out = "go on with its own settings, or start a new run from its run's weights: model.path=RUN/policy"
    raise CheckpointError(f"checkpoint {found.folder} {what}; {way_out}")


def _set_aside_later(root: Path, chosen: Checkpoint) -> None:
    """Rename the checkpoints of the steps that run again after `chosen`: damaged ones, or those of another course.

    Left in place, they would keep this run from writing its own, and pruning would count them as the newest.
    """
    for folder in sorted(root.glob("step-*")):
        number = folder.name.removeprefix("step-")
        if number.isdigit() and int(number) >= chosen.step and folder.resolve() != chosen.folder.resolve():
            names = (folder.with_name(f"aside-{copy}-{folder.name}") for copy in itertools.count(1))
            aside = folder.rename(next(path for path in names if not path.exists()))
            log.warning("going on from %s: %s is now %s", chosen.folder, folder, aside.name)


async def _until(stop: asyncio.Event, training: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result:
    """`work`, cancelled when a stop comes while nothing has been trained that could be lost."""
    task = asyncio.ensure_future(work)
    waiter = asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if not task.done() and not training.is_set():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise StopRequested("stopped before the first step; nothing was trained yet")
    return await task


async def _pass_on(stop: asyncio.Event, training: asyncio.Event, trainer: Trainer) -> None:
    """Hand a stop request to the trainer, which knows when nothing is lost."""
    training.set()
    await stop.wait()
    trainer.request_stop()


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


def _report(config: Config, run_dir: Path, stages: Sequence[StageLine]) -> None:
    rows = read_metrics(run_dir / "metrics.jsonl")
    curves = run_dir / "curves.png"
    draw_curves(rows, curves, f"{config.job}, preset {config.preset}, seed {config.run.seed}")
    (run_dir / "stages.json").write_text(json.dumps([asdict(line) for line in stages], indent=1) + "\n")
    lines = [line.text() for line in stages]
    lines.append(f"{'RL':<12}{sum(row.get('time/step_s', 0.0) for row in rows):>6.0f} s  steps {rows[-1]['step']:g}")
    log.info(
        "done: %d steps, run folder %s\n\n%s\n\n%s\ncurves: %s",
        rows[-1]["step"], run_dir, "\n".join(lines), table_text(rows), curves,
    )  # fmt: skip


def entry(job: str, defaults: Mapping[str, Any] | None = None) -> None:
    """`main` for a script: ends the process."""
    raise SystemExit(main(job, defaults))
