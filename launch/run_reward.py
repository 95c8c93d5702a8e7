"""The reward that a saved run's trajectories are scored by: the run's own settings, with others in their place.

Knows nothing of trajectories. Always holds: pixel limits are those of the run or were asked for, never a default, as
boxes scaled by a wrong size would only score lower; a setting that is not understood is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.words import UsageError
from rewards.composite import Scorer
from sake_ray.config import DataConfig, RewardConfig
from sake_ray.config.load import FIELDS
from sake_ray.config.values import field_types, parse_value, show
from sake_ray.data.json_files import read_object
from sake_ray.data.problems import DataError

_SECTIONS = {"reward": RewardConfig, "data": DataConfig}
_PIXELS = ("data.min_pixels", "data.max_pixels")
_NO_REWARD = ("reward.preset", "reward.workers", "reward.cpus_per_worker")
RUN_KEYS = (*(key for key in FIELDS if key.startswith("reward.") and key not in _NO_REWARD), *_PIXELS)
"""The settings of a run that decide, beside the preset, what its trajectories are worth."""

RUN_KEYS_HELP = "\n".join(
    f"  {key}: {FIELDS[key].metadata['help']} (the job's default {show(FIELDS[key].default)})" for key in RUN_KEYS
)


def run_scorer(path: Path, preset: str, given: Mapping[str, str]) -> Scorer:
    """What scores the trajectories in the file `path` of a run's folder; `given` are texts by `RUN_KEYS`.

    Raises:
        DataError: the folder's config.json cannot be read.
        UsageError: there is none and the pixel limits are not given, or the preset has no place for a setting.
        ConfigError: a setting is out of its limits.
    """
    values = _stored(path.with_name("config.json"))
    if preset == "paper":
        values.pop("reward.use_search_count_penalty", None)  # the run's has no meaning there; one given is refused
    for key, text in given.items():
        section, _, name = key.partition(".")
        values[key] = parse_value(key, text, field_types(_SECTIONS[section])[name], FIELDS[key].default)
    missing = [key for key in _PIXELS if key not in values]
    if missing:
        raise UsageError(
            f"{path} holds a run's trajectories, whose boxes are in pixels of the sized picture: keep the run's "
            f"config.json beside it, or give {' and '.join(f'{key}=…' for key in missing)}"
        )
    low, high = (values.pop(key) for key in _PIXELS)
    DataConfig(min_pixels=low, max_pixels=high)  # checks their limits
    if low > high:
        raise UsageError(f"data.min_pixels={low} exceeds data.max_pixels={high}")
    reward = RewardConfig(preset=preset, **{key.partition(".")[2]: value for key, value in values.items()})
    try:
        return Scorer.from_config(reward, min_pixels=low, max_pixels=high)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _stored(path: Path) -> dict[str, Any]:
    """What a run's config.json says of `RUN_KEYS`; nothing when there is no such file."""
    if not path.is_file():
        return {}
    content = read_object(path)
    named: dict[str, Any] = {}
    for section in _SECTIONS:
        part = content.get(section)
        if not isinstance(part, dict):
            raise DataError(f"{path}: {section}: no such section; is it the config.json that a run wrote?")
        named |= {f"{section}.{name}": value for name, value in part.items()}
    unknown = [key for key in named if key.startswith("reward.") and key not in FIELDS]
    if unknown:
        raise DataError(f"{path}: {unknown[0]}: this version has no such setting, so the scores would not be the run's")
    return {key: named[key] for key in RUN_KEYS if key in named}
