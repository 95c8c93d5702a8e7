"""The optional places metrics go to beside `metrics.jsonl`: TensorBoard and Weights & Biases.

Knows nothing of what a metric means. Always holds: a backend is imported only when asked for, and one
that is asked for but not installed is an error before the run starts, not a silent gap.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sake_ray.interfaces import Tracker

BACKENDS = ("tensorboard", "wandb")


class TensorBoardTracker:
    """Scalars to a folder that `tensorboard --logdir` reads."""

    def __init__(self, folder: Path, *, resume_after: int | None = None) -> None:
        """`resume_after=k` hides what an earlier process wrote for later steps."""
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resume_after is None else resume_after + 1
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record one step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


class WandbTracker:
    """Metrics to Weights & Biases; where the machine is offline, to its offline folder."""

    def __init__(self, project: str, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE", "online" if os.environ.get("WANDB_API_KEY") else "offline")
        self._run: Any = wandb.init(project=project, name=name, dir=str(folder), config=dict(config), mode=mode)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record one step."""
        self._run.log(dict(metrics), step=step)


def make_trackers(
    backends: str, *, project: str, run_dir: Path, config: Mapping[str, Any], resume_after: int | None
) -> list[Tracker]:
    """The trackers of a comma-separated list such as `tensorboard,wandb`.

    Raises:
        ValueError: an unknown backend, or one that is not installed.
    """
    trackers: list[Tracker] = []
    for name in filter(None, (part.strip() for part in backends.split(","))):
        if name not in BACKENDS:
            raise ValueError(f"tracking.backends={backends!r}: {name!r} is not one of {', '.join(BACKENDS)}")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"tracking.backends={backends!r}: {name} is not installed; pip install {name}")
        if name == "tensorboard":
            trackers.append(TensorBoardTracker(run_dir / "tensorboard", resume_after=resume_after))
        else:
            trackers.append(WandbTracker(project, run_dir.name, run_dir, config))
    return trackers
