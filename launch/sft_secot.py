"""The cold start: supervised fine-tuning of the base model on what launch/build_secot.py wrote, on Ray Train.

    python launch/sft_secot.py preset=mini secot.dir=DIR [section.field=value …]

Writes RUN/policy (a Hugging Face folder: give it to the RL jobs as model.path=RUN/policy), RUN/metrics.jsonl,
RUN/loss.png and checkpoints; a run that was killed or stopped goes on with the same command. Knows nothing of how it
is trained. Always holds: what cannot start ends with one sentence before any rank does.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs uninstalled, as a Ray working directory

from launch.display import RunDisplay
from sake_ray.config.config import Config
from sake_ray.config.values import ConfigError
from sake_ray.report import Row, read_metrics

log = logging.getLogger("sft_secot")
LOSS_PICTURE = "loss.png"


async def cold_start(config: Config, run_dir: Path, display: RunDisplay) -> None:
    """Train, or go on training, and show how it went.

    Raises:
        ConfigError: secot.dir is not given or is no folder.
        DataError: there is nothing to train on, or the run's folder belongs to other inputs.
    """
    from actors.sft_files import METRICS
    from actors.sft_trainer import fine_tune
    from launch.starting import base_model

    data = _trajectories(config)
    result = await fine_tune(config, model=base_model(config), data=data, run_dir=run_dir, on_step=display.cold_start)
    rows = read_metrics(run_dir / METRICS)
    draw_loss(rows, run_dir / LOSS_PICTURE, f"cold start, preset {config.preset}, seed {config.run.seed}")
    log.info(
        "done: %d steps on %d trajectories (%d held out), policy %s\n\n%s\nloss curve: %s",
        *(result.steps, result.trained, result.held_out, result.policy, loss_table(rows), run_dir / LOSS_PICTURE),
    )


def _trajectories(config: Config) -> Path:
    if not config.secot.dir:
        raise ConfigError("secot.dir=: the cold start learns from it; run launch/build_secot.py and give its folder")
    folder = Path(config.secot.dir)
    if not folder.is_dir():
        raise ConfigError(f"secot.dir={folder}: no such folder; run launch/build_secot.py and give the one it wrote")
    return folder


def loss_table(rows: Sequence[Row]) -> str:
    """First, lowest and last loss, on what is trained and on what is held out."""
    lines = [f"{'':<28}{'first':>12}{'lowest':>12}{'last':>12}"]
    for name, key in (("loss, trained", "train/loss"), ("loss, held-out posts", "eval/loss")):
        values = [row[key] for row in rows if key in row]
        if values:
            lines.append(f"{name:<28}{values[0]:>12.4f}{min(values):>12.4f}{values[-1]:>12.4f}")
    return "\n".join(lines) + "\n"


def draw_loss(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write the loss curves as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4.5), constrained_layout=True)
    for name, key, marker in (("trained", "train/loss", None), ("held-out posts", "eval/loss", "o")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axis.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=4)
    axis.set_xlabel("optimiser step")
    axis.set_ylabel("cross-entropy per token")
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str]) -> int:
    """Carry out one command line; returns the exit status."""
    from launch.script import run_stage

    return run_stage("sft_secot", cold_start, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
