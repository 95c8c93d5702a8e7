"""The RL job: from a configuration to a trained policy. The `rl_*.py` scripts differ only in defaults.

Wires data, actors and trainer; knows nothing of how any of them works. Always holds: the job ends with
a checkpoint, on success, on Ctrl-C and on `ray job stop` alike, and leaves no actor behind; it goes on
only from a checkpoint that was made with the settings it has (`launch/run_checkpoints.py`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from actors.placement import joined_ray
from launch.control import watched
from launch.display import RunDisplay
from launch.job_data import DataSet, load_data
from launch.pools import running_pools
from launch.report import verdicts
from launch.run_checkpoints import find_checkpoint, read_best
from launch.search_tool import check_search, spent
from launch.starting import StageLine, starting_point
from launch.training import ALERTS, Parts, train
from sake_ray.config.cli import config_or_exit
from sake_ray.config.config import Config
from sake_ray.config.plan import describe_plan, totals
from sake_ray.config.values import ConfigError
from sake_ray.data.json_files import read_values
from sake_ray.data.problems import DataError
from sake_ray.pages import run_page
from sake_ray.report import draw_curves, read_metrics, table_text
from sake_ray.trainer.checkpoint import Checkpoint, CheckpointError, NoRoom
from sake_ray.trainer.trainer import Collapsed, StopRequested, Trainer

log = logging.getLogger(__name__)
REFUSED, COLLAPSED, SPENT, FULL, STOPPED = 2, 3, 4, 5, 130
Result = TypeVar("Result")


def main(job: str, defaults: Mapping[str, Any] | None = None) -> int:
    """Run a job with the command line's settings; returns the process's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    config = config_or_exit(sys.argv[1:], job=job, defaults=defaults)
    try:
        check_search(config)  # before anything is started or written
        resumed = find_checkpoint(config)
    except (CheckpointError, ConfigError) as error:
        sys.stderr.write(f"{job}: {error}\n")
        return REFUSED
    cpus, _ = totals(describe_plan(config))
    rollout = config.rollout
    _, most = rollout.bounds() or (0, rollout.workers)
    spare = (most - rollout.workers) * rollout.cpus_per_worker
    try:
        with joined_ray(max(2, round(cpus + spare + 0.5))):
            return asyncio.run(run_job(config, resumed))
    except Exception as error:  # the process boundary
        if (why := spent(error)) is None:
            raise
        log.error("%s. The same command then goes on from the run's last checkpoint", why)
        return SPENT


async def run_job(config: Config, resumed: Checkpoint | None) -> int:
    """Train, from `resumed` on if there is one; on a stop request end cleanly with a checkpoint."""
    run_dir = config.run_dir.resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    display = RunDisplay(run_dir, config.trainer.total_steps)
    stop, training = asyncio.Event(), asyncio.Event()
    _on_signals(stop)
    watchers: list[asyncio.Task[None]] = []

    def begun(trainer: Trainer) -> None:
        watchers.append(asyncio.create_task(_pass_on(stop, training, trainer)))

    try:
        data = load_data(config)
        log.info("%d training posts, %d held-out posts from %s", len(data.train), len(data.held_out), data.root)
        stages = await _until(stop, training, _train(config, data, run_dir, display, resumed, begun))
    except Collapsed as collapsed:
        log.error("%s. The same command goes on from its last checkpoint; guard.action=warn only says so", collapsed)
        display.close("stopped by the guard")
        return COLLAPSED
    except NoRoom as full:  # of the last step, or of a stop: there is no later step to try again after
        log.error("%s. Make room; the same command then goes on from the run's last checkpoint", full)
        display.close("stopped: the disk is full")
        return FULL
    except StopRequested as stopped:
        log.info("%s; run the same command to go on from there", stopped)
        display.close("stopped")
        return STOPPED
    finally:
        for watcher in watchers:
            watcher.cancel()
    display.close("done")
    _report(config, run_dir, stages)
    return 0


async def _train(
    config: Config,
    data: DataSet,
    run_dir: Path,
    display: RunDisplay,
    resumed: Checkpoint | None,
    begun: Callable[[Trainer], None],
) -> tuple[StageLine, ...]:
    start = await starting_point(config, data, display)
    async with running_pools(config, model=start.model, data_root=data.root, run_dir=run_dir) as pools:
        data = replace(data, train=start.train)
        async with watched(config, run_dir, pools) as control:

            def seen(trainer: Trainer) -> None:
                control.view = trainer.view
                begun(trainer)

            parts = Parts(config, data, pools, run_dir, display, start.weights, control.stepped)
            await control.beside(train(parts, resumed, seen))
    return start.stages


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
    best = read_best(run_dir)
    if best is not None:
        lines.append(f"{'best':<12}{best['value']:>8.3f}  {best['metric']}, step {best['step']}: {best['checkpoint']}")
    alerts = [alert for _, alert in read_values(run_dir / ALERTS)]
    lines += [f"{'guard':<12}{alert['name']:>8}  step {alert['step']}: {alert['message']}" for alert in alerts]
    log.info(
        "done: %d steps, run folder %s\n\n%s\n\n%s\ncurves: %s",
        rows[-1]["step"], run_dir, "\n".join(lines), table_text(rows), curves,
    )  # fmt: skip
    try:
        log.info("page: %s", run_page.write(run_dir, run_dir / "report", mark=verdicts))
    except DataError as error:  # the run is done and saved; how it looks is no reason to call it failed
        log.warning("the run's page could not be made: %s", error)


def entry(job: str, defaults: Mapping[str, Any] | None = None) -> None:
    """`main` for a script: ends the process."""
    raise SystemExit(main(job, defaults))
