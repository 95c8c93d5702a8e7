"""What a job needs of the machine it starts on, refused before any actor starts.

Knows nothing of how values were given or of whether they fit together (check.py). Always holds: only a job that
is about to run is held to this; `--help` and `--dry-run` work where the models and data are not.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sake_ray.algorithms.advantage import KNOWN_ESTIMATORS, check_estimator
from sake_ray.algorithms.loss import DEFAULT_LOSS, check_loss
from sake_ray.config.config import Config
from sake_ray.config.plan import describe_plan
from sake_ray.config.values import ConfigError

ENCYCLOPAEDIA = ("encyclopaedia.sqlite", "encyclopaedia.jsonl")
"""A folder of the local search tool holds at least one of these, or of the files below."""
OWN_FILES = (
    "documents/*.jsonl", "documents/*.jsonl.gz", "documents/*.parquet", "captions.jsonl", "captions.jsonl.gz",
    "captions.csv", "captions.parquet", "pictures/*.txt",
)  # fmt: skip
LOOSE_FILES = ("*.jsonl", "*.jsonl.gz", "*.parquet")
"""Documents too, but only in a folder given for search: a data set's folder holds posts in such files."""


def check_ready(config: Config) -> None:
    """Refuse a job that cannot run here.

    Raises:
        ConfigError: naming field, value and what to do.
    """
    pools = {row.actor for row in describe_plan(config)}
    _check_model(config.model.path)
    _check_posts(config)
    if "search" in pools:
        _check_encyclopaedia(config)
    if "learner" in pools:
        _check_training(config)


def _check_model(path: str) -> None:
    if path == "mini" or (Path(path) / "config.json").is_file():
        return
    if Path(path).is_dir():
        raise ConfigError(f"model.path={path}: the folder has no config.json; give one that Hugging Face can load")
    raise ConfigError(
        f"model.path={path}: is no folder, and learner and engines read one; run `hf download {path} --local-dir DIR` "
        "where every node sees DIR, then give model.path=DIR"
    )


def _check_posts(config: Config) -> None:
    # Here and not in check.py: the help of a job whose task is FMNERG needs no data.
    if config.data.task == "fmnerg" and not config.data.root:
        raise ConfigError(
            "data.root=: MiniWorld, which it means when empty, has the types of GMNER, not those of data.task=fmnerg; "
            "give data.root=DIR with FMNERG posts, or data.task=gmner"
        )


def _check_encyclopaedia(config: Config) -> None:
    root = config.search.root or config.data.root
    if config.search.provider != "local" or not root:  # without data.root it is MiniWorld, which brings its own
        return
    patterns = (*ENCYCLOPAEDIA, *OWN_FILES, *(LOOSE_FILES if config.search.root else ()))
    if not any(path.is_file() for pattern in patterns for path in Path(root).glob(pattern)):
        raise ConfigError(
            f"search.root={config.search.root}: search.provider=local finds neither {' nor '.join(ENCYCLOPAEDIA)} nor "
            f"documents or captions in {root}; give search.root=DIR with some (docs/tools.md says which files count), "
            "or search.provider=offline search.cache=DIR"
        )


def _check_training(config: Config) -> None:
    # Whatever is not among the shipped ones may be a user's own in verl's registry; looking there takes seconds.
    algorithm = config.algorithm
    try:
        if algorithm.advantage not in KNOWN_ESTIMATORS:
            check_estimator(algorithm.advantage)
        if algorithm.loss != DEFAULT_LOSS:
            check_loss(algorithm.loss)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for backend in filter(None, (name.strip() for name in config.tracking.backends.split(","))):
        if importlib.util.find_spec(backend) is None:
            raise ConfigError(
                f"tracking.backends={config.tracking.backends}: {backend} is not installed; pip install {backend}, "
                "or leave it out"
            )
