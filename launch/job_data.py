"""From the configuration to posts: MiniWorld written on first use, or a data set of the user's own.

Not called datasets.py: a script's own folder comes first on the import path, and would hide the library of that name.
Knows nothing of actors. Always holds: a job's posts are checked before any actor starts.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from sake_ray.config.config import Config, section_hash
from sake_ray.config.sections import DataConfig
from sake_ray.data.loading import load_split
from sake_ray.data.miniworld_files import WorldSpec, ensure_world
from sake_ray.data.problems import LoadResult, OnBad
from sake_ray.data.resolve import Images
from sake_ray.data.seen import mark_seen
from sake_ray.types import Example

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """The posts of a job. `root` is the folder they came from, `looks` what MiniWorld's entities look like."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    root: Path
    looks: dict[str, str]


def cache_folder(config: Config) -> Path:
    """Where jobs keep what other jobs can use again: beside the run's folder."""
    return config.run_dir.resolve().parent / "cache"


def world_folder(config: Config) -> Path:
    """The folder of the MiniWorld that the configuration describes, written on first use."""
    spec = WorldSpec(**asdict(config.world))
    return ensure_world(cache_folder(config) / f"miniworld-{section_hash(config.world)}", spec)


def load_miniworld(config: Config) -> DataSet:
    """MiniWorld's posts, whatever `data.root` says (the mini policy's cold start always learns there)."""
    folder = world_folder(config)
    rows = [json.loads(line) for line in (folder / "entities.jsonl").read_text().splitlines()]
    train = load_split(folder, "train").examples
    held_out = load_split(folder, config.eval.split).examples
    return DataSet(tuple(train), tuple(held_out), folder, {row["name"]: row["look"] for row in rows})


def load_data(config: Config) -> DataSet:
    """Training and held-out posts of a job.

    Raises:
        DataError: a file, a row or a picture that cannot be used; names it.
    """
    if not config.data.root:
        data = load_miniworld(config)
        train, held_out, root, looks = data.train, data.held_out, data.root, data.looks
    else:
        root, looks = Path(config.data.root).resolve(), {}
        train_result, held_result = _split(config.data, "train"), _split(config.data, config.eval.split)
        for result in (train_result, held_result):
            for problem in result.problems:
                log.warning("left out: %s", problem)
        train, held_out = tuple(train_result.examples), tuple(mark_seen(held_result.examples, train_result.examples))
    train = train[: config.data.max_examples or None]
    held_out = held_out[: config.eval.max_examples or None]
    return DataSet(train, held_out, root, looks)


def _split(data: DataConfig, split: str) -> LoadResult:
    return load_split(
        data.root,
        split,
        task=data.task,
        subset=data.subset,
        images=cast(Images, data.images),
        image_dir=data.image_dir or None,
        on_bad=cast(OnBad, data.on_bad),
    )
