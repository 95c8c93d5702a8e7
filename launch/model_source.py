"""Which policy `model=…` means: the shipped one, a Hugging Face folder, a run's, or that of a run's checkpoint.

Knows nothing of evaluation. Always holds: a policy that a run made comes with the run's own settings, so that what is
asked of it is what it was trained for; what cannot be loaded is a sentence that says what can.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.run_checkpoints import BEST, BEST_POLICY
from launch.search_tool import CACHE_FOLDER
from launch.starting import MINI, base_model_folder
from launch.words import UsageError
from sake_ray.config.load import FIELDS
from sake_ray.config.values import Value
from sake_ray.data.json_files import read_object
from sake_ray.data.problems import DataError
from sake_ray.trainer import checkpoint
from sake_ray.trainer.checkpoint import CheckpointError

log = logging.getLogger(__name__)
POLICY = "policy"
CONFIG = "config.json"
_CHECKPOINTS = "checkpoints"
_LEARNER = "learner"
_SECTIONS = ("data", "world", "prompts", "episode", "search", "reward", "rollout")
# Of a run's settings, those that say which posts it trained on and not how an episode goes.
_TRAINING = ("data.max_examples", "data.difficulty", "rollout.group_size")


@dataclass(frozen=True)
class ModelSource:
    """A policy to load.

    `folder` is a Hugging Face folder: of the policy itself, or, where `learner` is given, of the model that the
    learner's state in that folder belongs to. `run` and `checkpoint` are where it comes from ("" where it is of no
    run), `settings` the run's, by dotted name.
    """

    name: str
    folder: Path
    learner: Path | None = None
    run: str = ""
    checkpoint: str = ""
    settings: Mapping[str, Value] = field(default_factory=dict)


def find_model(given: str) -> ModelSource:
    """The policy that a user names.

    Raises:
        UsageError: nothing that can be evaluated is there.
        DataError: a checkpoint or a run's settings are damaged.
    """
    if given == MINI:
        return ModelSource(MINI, base_model_folder())
    folder = Path(given).resolve()
    if not folder.is_dir():
        raise UsageError(
            f"model={given}: must be mini, or the folder of a model, a run or a checkpoint (a model of the hub: "
            "`hf download NAME --local-dir DIR`, then model=DIR)"
        )
    if (folder / checkpoint.MANIFEST).is_file():
        return _of_checkpoint(given, folder)
    config = _read(folder / CONFIG)
    if _is_run(config):
        return _of_run(given, folder, config)
    if "model_type" in config or "architectures" in config:
        run = _read(folder.parent / CONFIG)
        if not _is_run(run):
            return ModelSource(folder.name, folder)
        return _exported(folder.parent, folder.name, run)
    raise UsageError(
        f"model={given}: holds neither a model ({CONFIG} of Hugging Face) nor a run ({CONFIG} that a job wrote) nor a "
        f"checkpoint ({checkpoint.MANIFEST}); give one of these folders"
    )


def policy_defaults(source: ModelSource | None, settings: Sequence[str], run_dir: Path) -> dict[str, Value]:
    """The settings that hold where the command line (`settings`) says nothing: a run's own for its policy.

    None is a model that is served elsewhere.

    Raises:
        UsageError: a preset is missing, or given beside a run's own settings.
    """
    has_preset = any(word.startswith("preset=") for word in settings)
    if not has_preset and (source is None or not (source.settings or source.name == MINI)):
        raise UsageError(
            "preset=… is missing: the default one has prompts and picture sizes that suit the mini model alone; give "
            "preset=qwen25vl_3b, say, or preset=mini where that is meant"
        )
    if source is None:
        return {"run.dir": str(run_dir), "model.path": MINI}  # no model is loaded here
    if source.settings and has_preset:
        raise UsageError(
            f"preset=…: the policy is of the run {source.run}, whose own settings hold; give single settings, or the "
            "policy's folder outside of its run"
        )
    return {**source.settings, "run.dir": str(run_dir), "model.path": str(source.folder)}


def run_source(given: str) -> ModelSource:
    """A run's settings, whether it has a policy yet or not; `folder` is that of the model it trains.

    Raises:
        UsageError: it is no run.
        DataError: its settings are damaged.
    """
    folder = Path(given).resolve()
    config = _read(folder / CONFIG)
    if not _is_run(config):
        raise UsageError(f"{given}: no run: it holds no {CONFIG} that a job wrote")
    path = str(config["model"]["path"])
    base = base_model_folder() if path == MINI else Path(path)
    return ModelSource(folder.name, base, run=str(folder), settings=_settings(folder, config))


def _of_run(given: str, folder: Path, config: Mapping[str, Any]) -> ModelSource:
    """A run's best policy, else its last one."""
    for name in (BEST_POLICY, POLICY):
        if (folder / name / CONFIG).is_file():
            log.info("%s: its %s, with the run's own settings", folder, name)
            return _exported(folder, name, config)
    steps = sorted((folder / _CHECKPOINTS).glob("step-*"))
    instead = f"evaluate its newest checkpoint: model={steps[-1]}" if steps else "it has no checkpoint either"
    raise UsageError(
        f"model={given}: the run has exported no policy yet (neither {BEST_POLICY} nor {POLICY}); {instead}"
    )


def _exported(run: Path, name: str, config: Mapping[str, Any]) -> ModelSource:
    """A policy that a run wrote for others to load."""
    best = _read(run / name / BEST)
    return ModelSource(
        f"{run.name}/{name}",
        run / name,
        run=str(run),
        checkpoint=str(best.get("checkpoint", name)),
        settings=_settings(run, config),
    )


def _of_checkpoint(given: str, folder: Path) -> ModelSource:
    """The policy of a training checkpoint, which holds tensors alone: the rest is of the model the run started from."""
    run = folder.parent.parent
    config = _read(run / CONFIG)
    if folder.parent.name != _CHECKPOINTS or not _is_run(config):
        raise UsageError(
            f"model={given}: a checkpoint without its run around it (RUN/{CONFIG}, RUN/{_CHECKPOINTS}/step-…) does not "
            "say which model it is of; evaluate an exported policy folder"
        )
    if not (folder / _LEARNER).is_dir():
        raise UsageError(f"model={given}: holds no {_LEARNER} state; evaluate an exported policy folder")
    try:
        checkpoint.load(folder)
    except CheckpointError as error:
        raise DataError(f"model={given}: {error}") from error
    path = str(config["model"]["path"])
    base = base_model_folder() if path == MINI else Path(path)
    if not (base / CONFIG).is_file():
        raise UsageError(f"model={given}: the model it was made from is no longer there: {base}")
    log.info("%s: with the run's own settings, over config and tokenizer of %s", folder, base)
    return ModelSource(
        f"{run.name}/{folder.name}",
        base,
        learner=folder / _LEARNER,
        run=str(run),
        checkpoint=folder.name,
        settings=_settings(run, config),
    )


def _is_run(config: Mapping[str, Any]) -> bool:
    return "job" in config and isinstance(config.get("data"), dict) and isinstance(config.get("model"), dict)


def _settings(run: Path, config: Mapping[str, Any]) -> dict[str, Value]:
    """The settings of a run that an episode depends on, and its seed; those unknown here are named in the log."""
    found = {f"{name}.{key}": value for name in _SECTIONS for key, value in (config.get(name) or {}).items()}
    found["run.seed"] = (config.get("run") or {}).get("seed", 0)
    unknown = sorted(key for key in found if key not in FIELDS)
    if unknown:
        log.warning("the run has settings that this version does not know, left out: %s", ", ".join(unknown))
    settings = {key: value for key, value in found.items() if key in FIELDS and key not in _TRAINING}
    settings["search.cache_dir"] = settings.get("search.cache_dir") or str(run.parent / CACHE_FOLDER)
    return settings


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file.

    Raises:
        DataError: it is there and is none.
    """
    return read_object(path) if path.is_file() else {}
