"""One rank of a supervised run inside Ray Train: data, steps, evaluation, checkpoints, export.

Knows nothing of who started it or how often. Always holds: all ranks do the same things in the same order, and rank
0 alone writes; a step's row is in `metrics.jsonl` before its checkpoint is, and a checkpoint is whole or absent; after
any restart the run goes on from the newest checkpoint, and its rows are those of a run that was never cut off. Only
checkpoints are reported to Ray Train: it takes one report every two seconds, and a step is often shorter.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import ray.train
import torch
import torch.distributed as dist
from ray.util.metrics import Gauge

from actors.learner import Learner
from actors.learner_group import learner_settings
from actors.placement import LEARNER, actor_name
from actors.sft_data import SftData, SftTask, make_data, sft_config
from actors.sft_files import CARD, CHECKPOINTS, METRICS, PLAN, POLICY, STOP, Outcome
from envs.replay import ReplayError
from sake_ray.data.collate import TrainSample, balanced_shards
from sake_ray.data.json_files import write_json
from sake_ray.metrics import JsonlLog, JsonlTracker
from sake_ray.report import read_metrics
from sake_ray.tracking import make_trackers
from sake_ray.trainer.checkpoint import CheckpointError, CheckpointStore

log = logging.getLogger(__name__)

LOCK_WAIT_S = 60.0

T = TypeVar("T")


class SftRefused(RuntimeError):
    """What would fail the same way again; ends the run with its sentence instead of a restart."""


def run_rank(task: SftTask) -> Outcome:
    """Train on this rank from where the run stands to its end, or to a stop request; a collective."""
    torch.set_num_threads(max(1, int(task.config.learner.cpus_per_rank)))
    with contextlib.ExitStack() as stack:
        try:
            _on_rank_0(lambda: stack.enter_context(_sole_writer(task.run_dir)))
            return _Run(task, make_data(task)).run()
        except (SftRefused, ReplayError, FloatingPointError) as error:
            # Every rank comes here: what is wrong is the same on all of them.
            return Outcome(refused=str(error))


class _Run:
    """The state of one rank between two restarts."""

    def __init__(self, task: SftTask, data: SftData) -> None:
        self._task, self._data = task, data
        self._sft = task.config.sft
        self._total = len(data.batches)
        self._learner = Learner(learner_settings(sft_config(task.config, self._total), task.model))
        self._is_first = dist.get_rank() == 0
        self._store = CheckpointStore(task.run_dir / CHECKPOINTS, keep=sys.maxsize)  # Ray Train removes old ones
        self._saved = -1
        self._plan: dict[str, int] = {}
        self._tracker: JsonlTracker | None = None
        self._gauges = {
            name: Gauge(f"sake_ray_learner_{name}", description=text, tag_keys=("actor",))
            for name, text in (
                ("step", "optimiser steps taken"),
                ("tokens_per_s", "trained tokens a second, all ranks"),
            )
        }

    def run(self) -> Outcome:
        """Every step that is left, then the export."""
        resumed = self._resume()
        step = resumed or 0
        _on_rank_0(lambda: self._open(resumed))
        if resumed is None:
            self._log(0, self._held_out_loss())
        while step < self._total:
            step += 1
            metrics = self._learner.sft_step(self._share(self._batch(step)))
            if step == self._total or _is_due(step, self._sft.eval_every):
                metrics |= self._held_out_loss()
            self._log(step, metrics)
            stopped = _on_rank_0((self._task.run_dir / STOP).exists) and step < self._total
            if stopped or step == self._total or _is_due(step, self._sft.checkpoint_every):
                self._save(step)
            if stopped:
                return Outcome(step, stopped=True)
        self._export()
        return Outcome(step)

    def _batch(self, step: int) -> list[TrainSample]:
        return [self._data.train[index] for index in self._data.batches[step - 1]]

    def _share(self, samples: list[TrainSample]) -> list[TrainSample]:
        """This rank's part of some samples."""
        shards = balanced_shards([len(sample.token_ids) for sample in samples], self._learner.ranks)
        return [samples[index] for index in shards[self._learner.rank]]

    def _held_out_loss(self) -> dict[str, float]:
        if not self._data.held_out:
            return {}
        return {"eval/loss": self._learner.sft_loss(self._share(list(self._data.held_out)))}

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        if self._tracker is not None and metrics:
            self._tracker.log(metrics, step)
        name = {"actor": actor_name(LEARNER, self._learner.rank)}
        self._gauges["step"].set(step, name)
        self._gauges["tokens_per_s"].set(metrics.get("train/tokens_per_s", 0.0), name)

    def _open(self, resumed: int | None) -> None:
        """Cut off the rows after the checkpoint that the run goes on from, and then say that it goes on.

        Raises:
            SftRefused: there are rows that cannot be read.
        """
        run_dir, config, data = self._task.run_dir, self._task.config, self._data
        try:
            rows = JsonlLog(run_dir / METRICS, resume_after=resumed)
        except ValueError as error:
            raise SftRefused(str(error)) from error
        others = make_trackers(
            config.tracking.backends,
            project=config.tracking.project,
            run_dir=run_dir,
            config=config.to_dict(),
            resume_after=resumed,
        )
        self._tracker = JsonlTracker(rows, others)
        self._plan = {
            "steps": self._total,
            "from_step": resumed or 0,
            "trained": len(data.train),
            "held_out": len(data.held_out),
            "tokens": sum(len(data.train[index].token_ids) for batch in data.batches for index in batch),
        }
        write_json(run_dir / PLAN, self._plan)

    # --- state ------------------------------------------------------------------------------------------

    def _resume(self) -> int | None:
        """Load the newest checkpoint; None when there is none.

        A worker may die after a checkpoint was written and before Ray Train heard of it: such a one is reported now.
        """
        newest, unreported = _on_rank_0(self._find)
        for folder in unreported:
            self._report(folder)
        if newest is None:
            return None
        self._learner.load(newest / "learner")
        log.info("going on after step %d from %s", self._learner.step, newest)
        self._saved = self._learner.step
        return self._learner.step

    def _find(self) -> tuple[Path | None, list[Path]]:
        """The newest checkpoint, and those newer than the last that was reported."""
        whole = sorted(self._store.root.glob("step-*"))
        reported = ray.train.get_checkpoint()
        last = Path(reported.path).name if reported is not None else ""
        return (whole[-1] if whole else None), [folder for folder in whole if folder.name > last]

    def _save(self, step: int) -> None:
        """Write the checkpoint of a step, unless it is the one that was loaded, and report it."""
        if step == self._saved:
            return
        with contextlib.ExitStack() as stack:
            folder = _on_rank_0(lambda: stack.enter_context(self._store.begin(step, {"task": "sft"})))
            self._learner.save(folder / "learner")
        self._saved = step
        self._report(self._store.root / f"step-{step:06d}")

    def _report(self, folder: Path) -> None:
        """Tell Ray Train of a checkpoint that lies in its storage already; a collective."""
        ray.train.report(
            {"checkpoint": folder.name},
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)) if self._is_first else None,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    def _export(self) -> None:
        """Write the policy's Hugging Face folder beside its place, and then put it there."""
        scratch, final = self._task.run_dir / f".{POLICY}", self._task.run_dir / POLICY
        if self._is_first:
            shutil.rmtree(scratch, ignore_errors=True)
        dist.barrier()
        self._learner.export(scratch)
        if self._is_first:
            *_, last = read_metrics(self._task.run_dir / METRICS)
            metrics = {name: value for name, value in last.items() if name != "step"}
            write_json(scratch / CARD, {**self._plan, "metrics": metrics, "inputs": self._task.inputs})
            os.replace(scratch, final)
        dist.barrier()


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _on_rank_0(work: Callable[[], T]) -> T:
    """What `work` gives on rank 0, given to every rank; what is refused there is refused everywhere.

    Raises:
        SftRefused: rank 0 cannot do it, and could not after a restart.
    """
    box: list[Any] = [None, ""]
    if dist.get_rank() == 0:
        try:
            box[0] = work()
        except (CheckpointError, SftRefused) as error:
            box[1] = str(error)
    dist.broadcast_object_list(box, src=0)
    if box[1]:
        raise SftRefused(box[1])
    return box[0]  # type: ignore[no-any-return]


@contextlib.contextmanager
def _sole_writer(run_dir: Path) -> Iterator[None]:
    """Hold the run folder: a rank of a job that was killed may outlive it for a moment, and a second job may start.

    Raises:
        SftRefused: another process holds it and does not let go.
    """
    with (run_dir / ".lock").open("w") as file:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SftRefused(
                        f"{run_dir}: another job is training into this folder; choose another run.dir"
                    ) from None
                time.sleep(0.1)
            except OSError as error:
                log.warning("%s: this file system has no locks (%s); nothing keeps a second job out", run_dir, error)
                break
        yield
