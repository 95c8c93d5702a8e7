"""Supervised fine-tuning as one call: Ray Train starts the ranks and restarts them; this side prepares and watches.

Needs Ray to be running; knows nothing of losses or batches. Always holds: a run folder belongs to one set of inputs
(model, demonstrations, prompts, settings, seed) and another set is refused with what differs; the same call made again
goes on from the newest checkpoint, or returns at once when the policy is there; `RUN/policy` is whole or absent.

The run's folder: `sft.json` (the inputs), `plan.json` (steps and posts), `metrics.jsonl` (a row a step),
`checkpoints/` (Ray Train's storage: its snapshot, and `step-…` folders), `policy/` (the result, with `sft.json`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.placement import Resources, process_env
from actors.sft_data import Inputs, SftTask, differences, sft_inputs
from actors.sft_files import CARD, CHECKPOINTS, METRICS, PLAN, POLICY, STOP, Outcome
from sake_ray.coldstart.secot_files import read_demonstrations
from sake_ray.config.config import Config
from sake_ray.data.json_files import write_json
from sake_ray.data.problems import DataError
from sake_ray.prompts import load_prompts
from sake_ray.trainer.checkpoint import CheckpointStore
from sake_ray.trainer.trainer import StopRequested

log = logging.getLogger(__name__)

OnStep = Callable[[int, int, Mapping[str, float]], None]
"""Called once an optimiser step, in order: step, steps in all, the step's row."""

_SNAPSHOT = "checkpoint_manager_snapshot.json"
_START_TRIES = 15
"""Times Ray Train waits a minute for room on the cluster."""
_POLL_S = 0.25
_QUIET_S = 60.0
_COLLECTIVE_TIMEOUT_S = 1800
_IDLE_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")
_NO_CPU = 0.001
"""What a rank with learner.cpus_per_rank=0 asks for: a placement group must ask for something."""


class SftError(DataError):
    """The cold start cannot run on what it was given; the text says why and what to do."""


@dataclass(frozen=True)
class SftResult:
    """A finished run.

    Attributes:
        policy: Hugging Face folder.
        steps: optimiser steps in all, those of earlier calls included.
        trained, held_out: trajectories trained on and kept for the evaluation loss.
        metrics: the last step's row.
    """

    policy: Path
    steps: int
    trained: int
    held_out: int
    metrics: dict[str, float]


def run_sft(
    config: Config,
    *,
    model: Path,
    data: Path,
    run_dir: Path,
    on_step: OnStep | None = None,
    stop: threading.Event | None = None,
) -> SftResult:
    """Fine-tune `model` on the demonstrations in `data`, or go on with that; blocks, so call it in a thread.

    Args:
        config: sections sft, learner, run, data, episode, prompts, search, model, trainer and tracking are used.
        model: Hugging Face folder to start from.
        data: folder that `launch/build_secot.py` wrote.
        run_dir: folder of the run, seen by every node.
        on_step: told of each step once, those of earlier calls included; calls come from this thread.
        stop: when set, the run ends after the step in hand, with a checkpoint.

    Raises:
        SftError: the folder belongs to other inputs, a demonstration cannot be trained on, or nothing can start.
        StopRequested: `stop` was set; the same call goes on from there.
        ray.train.TrainingFailedError: ranks failed more than `sft.max_failures` times.
    """
    task = _prepare(config, model.resolve(), data.resolve(), run_dir.resolve())
    done = _finished(task)
    if done is not None:
        log.info("cold start: %s is there and its inputs are unchanged", done.policy)
        return done
    _mend(task.run_dir / CHECKPOINTS)
    outcome = _Watch(task, on_step, stop).follow(_start(task))
    if outcome.refused:
        raise SftError(outcome.refused)
    if outcome.stopped:
        raise StopRequested(f"stopped after step {outcome.step}; its checkpoint is in {task.run_dir / CHECKPOINTS}")
    result = _finished(task)
    if result is None:
        raise SftError(f"the ranks ended after step {outcome.step} and left no {task.run_dir / POLICY}")
    return result


async def fine_tune(
    config: Config, *, model: Path, data: Path, run_dir: Path, on_step: OnStep | None = None
) -> SftResult:
    """`run_sft` for a job's event loop; cancelling it ends the run with a checkpoint. `on_step` runs in a thread."""
    stop = threading.Event()
    running = asyncio.ensure_future(
        asyncio.to_thread(run_sft, config, model=model, data=data, run_dir=run_dir, on_step=on_step, stop=stop)
    )
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(StopRequested):
            await running
        raise


# --- the run's folder -----------------------------------------------------------------------------------


def _prepare(config: Config, model: Path, data: Path, run_dir: Path) -> SftTask:
    """Read what is to be learnt, and take the run's folder for it.

    Raises:
        SftError: nothing to learn, or the folder belongs to something else.
    """
    demonstrations = tuple(read_demonstrations(data))
    if not demonstrations:
        raise SftError(f"secot.dir={data}: no trajectory was accepted there, so there is nothing to learn")
    prompts = load_prompts(config.data.task, config.prompts.set, config.prompts.dir)
    task = SftTask(config, model, run_dir, prompts, demonstrations, sft_inputs(config, model, prompts, demonstrations))
    _claim(run_dir, task.inputs)
    for name in (STOP, PLAN):
        (run_dir / name).unlink(missing_ok=True)
    return task


def _claim(run_dir: Path, inputs: Inputs) -> None:
    """Write down what the folder is for, or check that it is for the same.

    Raises:
        SftError: it is for something else; says what differs.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    card = run_dir / CARD
    if card.exists():
        changed = differences(_read(card)["inputs"], inputs)
        if changed:
            raise SftError(
                f"run.dir={run_dir} holds a cold start that began with other inputs: {', '.join(changed)}. "
                "Choose another run.dir, remove that one, or run with the inputs it began with"
            )
        return
    taken = [name for name in (CHECKPOINTS, METRICS, POLICY) if (run_dir / name).exists()]
    if taken:
        raise SftError(f"run.dir={run_dir} belongs to another job ({', '.join(taken)} without {CARD}); choose another")
    write_json(card, {"inputs": inputs})


def _finished(task: SftTask) -> SftResult | None:
    """The result of a run that has ended with these inputs."""
    card = task.run_dir / POLICY / CARD
    if not card.exists():
        return None
    found = _read(card)
    changed = differences(found["inputs"], task.inputs)
    if changed:
        raise SftError(f"{card.parent} was trained with other inputs: {', '.join(changed)}. Choose another run.dir")
    return SftResult(card.parent, found["steps"], found["trained"], found["held_out"], dict(found["metrics"]))


def _mend(folder: Path) -> None:
    """Set aside what a kill or a bad disk left damaged, so that Ray Train starts from what is whole.

    Ray Train writes its snapshot in place, and stops at one that is cut off or names a missing checkpoint; without a
    snapshot the ranks go on from the newest folder all the same, and report it anew.

    Raises:
        CheckpointError: there are checkpoints and every one is damaged.
    """
    whole = CheckpointStore(folder, keep=sys.maxsize).find_latest()
    newest = whole.folder.name if whole else ""
    for path in sorted(folder.glob("step-*")):
        if path.name > newest:
            _set_aside(path)
    snapshot = folder / _SNAPSHOT
    if snapshot.exists() and not _is_sound(snapshot):
        _set_aside(snapshot)


def _is_sound(snapshot: Path) -> bool:
    """Whether a snapshot can be read and every checkpoint it names is there."""
    try:
        results = json.loads(snapshot.read_text(encoding="utf-8"))["checkpoint_results"]
        return all((snapshot.parent / result["checkpoint_dir_name"]).is_dir() for result in results)
    except (ValueError, KeyError, TypeError):
        return False


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"aside-{time.time_ns()}-{path.name}")
    os.replace(path, aside)
    log.error("%s is damaged: it is now %s and is not used", path, aside.name)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SftError(f"{path}: not readable as JSON ({error}); remove that folder and start over") from error
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), dict):
        raise SftError(f"{path}: no card of a cold start; remove that folder and start over")
    return value


# --- Ray Train ------------------------------------------------------------------------------------------


def _start(task: SftTask) -> concurrent.futures.Future[Outcome]:
    """Let Ray Train run the ranks; its answer comes to the future.

    A daemon thread, because Ray Train cannot be interrupted: a process that is told to end does not wait for it.
    """
    answer: concurrent.futures.Future[Outcome] = concurrent.futures.Future()

    def fit() -> None:
        try:
            answer.set_result(_trainer(task).fit().return_value)
        except BaseException as error:  # noqa: BLE001  (handed over whole: `follow` raises it)
            answer.set_exception(error)

    threading.Thread(target=fit, name="sft", daemon=True).start()
    return answer


def _trainer(task: SftTask) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    learner, gpus = task.config.learner, task.config.learner.gpus_per_rank
    resources: dict[str, float] = {"CPU": learner.cpus_per_rank or (0.0 if gpus else _NO_CPU)}
    if gpus:
        resources["GPU"] = gpus
    threads = max(1, int(learner.cpus_per_rank))
    env = process_env(Resources(learner.cpus_per_rank, gpus), threads)

    def train_loop() -> Outcome:
        from actors.sft_worker import run_rank

        return run_rank(task)

    class Trainer(TorchTrainer):
        """Without two actors that would do nothing here, each a process that starts anew with the ranks.

        One shards Ray Data sets, of which there are none. The other cleans up after a lost controller, as the job's
        end does too; it asks the dashboard every second, and where there is none it complains every second.
        """

        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if type(callback).__name__ not in _IDLE_CALLBACKS]

    return Trainer(
        train_loop,
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=_COLLECTIVE_TIMEOUT_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=learner.ranks, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=str(task.run_dir),
            failure_config=ray.train.FailureConfig(
                max_failures=task.config.sft.max_failures, controller_failure_limit=_START_TRIES
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=task.config.trainer.keep_checkpoints),
            worker_runtime_env={"env_vars": env},
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )


class _Watch:
    """Waits for a run's end; on the way tells of its steps and passes a stop request on."""

    def __init__(self, task: SftTask, on_step: OnStep | None, stop: threading.Event | None) -> None:
        self._task, self._on_step = task, on_step
        self._stop = stop or threading.Event()
        self._told = 0  # the row of step 0 is a measurement, no step
        self._file = 0
        self._offset = 0
        self._steps = 0

    def follow(self, answer: concurrent.futures.Future[Outcome]) -> Outcome:
        """The run's outcome.

        Raises:
            StopRequested: a stop before anything was trained.
            SftError: Ray Train could not start the ranks.
        """
        heard = time.monotonic()
        while not answer.done():
            began = self._begun()
            if self._stop.wait(_POLL_S):
                (self._task.run_dir / STOP).touch()
                if not began:
                    raise StopRequested("stopped before the first step; nothing was trained yet")
                time.sleep(_POLL_S)
            if began:
                self._tell()
            elif time.monotonic() - heard > _QUIET_S:
                heard = time.monotonic()
                log.info("still waiting for %s; free: %s", self._wanted(), ray.available_resources())
        if self._begun():
            self._tell()
        return self._outcome(answer)

    def _outcome(self, answer: concurrent.futures.Future[Outcome]) -> Outcome:
        import ray.train

        try:
            return answer.result()
        except ray.train.ControllerError as error:
            raise SftError(
                f"{self._wanted()} could not be started: {error}. Lower learner.ranks, learner.cpus_per_rank or "
                "learner.gpus_per_rank, or add nodes"
            ) from error

    def _wanted(self) -> str:
        learner = self._task.config.learner
        return f"{learner.ranks} rank(s) of {learner.cpus_per_rank:g} CPUs and {learner.gpus_per_rank:g} GPUs each"

    def _begun(self) -> bool:
        """Whether rank 0 has planned the run (in this call: the plan of an earlier one was removed)."""
        plan = self._task.run_dir / PLAN
        if self._steps == 0 and plan.exists():
            self._steps = int(json.loads(plan.read_text(encoding="utf-8"))["steps"])
        return self._steps > 0

    def _tell(self) -> None:
        """Tell of new rows. A restart replaces the file by one without the rows of the steps that run again."""
        path = self._task.run_dir / METRICS
        if self._on_step is None or not path.exists():
            return
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_ino != self._file or facts.st_size < self._offset:
                self._file, self._offset = facts.st_ino, 0
            file.seek(self._offset)
            lines = file.read().split(b"\n")
        for line in lines[:-1]:  # what follows the last line end is still being written
            self._offset += len(line) + 1
            row = json.loads(line)
            step = int(row.pop("step"))
            if step > self._told:
                self._told = step
                self._on_step(step, self._steps, row)
