"""What the tests of supervised runs share: demonstrations, settings, and a whole job as a process of its own.

    python -m tests.actors.sft_case MODEL RUN_DIR RAY_DIR RANKS

trains as the tests do, with a local Ray of its own in RAY_DIR.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actors import sft_trainer
from actors.placement import init_ray
from sake_ray.coldstart.teaching import Demonstration, TaughtTurn
from sake_ray.config.config import Config
from sake_ray.config.load import resolve
from sake_ray.report import read_metrics
from sake_ray.types import Box, Example, ImageRef, Observation, QueryResult, SearchKind

ROOT = Path(__file__).parents[2]
POSTS = 12
SETTINGS = (
    "preset=mini",
    "data.min_pixels=784",
    "data.max_pixels=12544",
    "episode.max_turn_tokens=512",
    "learner.cpus_per_rank=1",
    "learner.row_tokens=1024",
    "sft.epochs=6",
    "sft.lr=0.001",
    "sft.batch_tokens=500",
    "sft.frozen=none",
    "sft.held_out=0.2",
    "sft.eval_every=3",
    "sft.checkpoint_every=2",
    "tracking.backends=",
)


def settings(*words: str) -> Config:
    return resolve([*SETTINGS, *words], job="sft_secot")


def picture(name: str, width: int, height: int) -> ImageRef:
    """A drawn stand-in, so that any process can read it."""
    return ImageRef(name, width, height, standin=((Box(2, 2, 40, 40), "PER"),))


def demonstration(number: int) -> Demonstration:
    """A post answered at once, after a text search, or after an image search."""
    name = f"Kora {'abcdefghijkl'[number % 12]}"
    example = Example(f"post-{number}", f"{name} in the city", picture("post.png", 84, 56), ())
    answer = f'<reason>{name} PER</reason><answer>[{{"entity": "{name}", "type": "PER", "box2d": []}}]</answer>'
    turns = [TaughtTurn(answer)]
    if number % 3:
        kind = (SearchKind.TEXT, SearchKind.IMAGE)[number % 3 - 1]
        found = (picture("found.png", 56, 56),) if kind is SearchKind.IMAGE else ()
        query = f'[{{"query": "{name}"}}]'
        text = f"<reason>{name} unknown</reason><{kind}_search>{query}</{kind}_search>"
        turns.insert(0, TaughtTurn(text, Observation(kind, (QueryResult(name, "success", "a singer", found),))))
    return Demonstration(example, (), tuple(turns), teacher="test")


def demonstrations(count: int = POSTS) -> list[Demonstration]:
    return [demonstration(number) for number in range(count)]


def train(
    config: Config,
    model: Path,
    run_dir: Path,
    *,
    taught: list[Demonstration] | None = None,
    on_step: Callable[[int, int, Mapping[str, float]], None] | None = None,
    **options: Any,
) -> sft_trainer.SftResult:
    """`run_sft` on demonstrations that stand in no file."""
    before = sft_trainer.read_demonstrations
    sft_trainer.read_demonstrations = lambda folder: demonstrations() if taught is None else taught
    try:
        return sft_trainer.run_sft(config, model=model, data=Path("secot"), run_dir=run_dir, on_step=on_step, **options)
    finally:
        sft_trainer.read_demonstrations = before


def curve(run_dir: Path) -> list[dict[str, float]]:
    """The rows of a run without what depends on the clock."""
    return [
        {name: value for name, value in row.items() if name != "train/tokens_per_s"}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


def steps(run_dir: Path) -> list[int]:
    """The steps that have a row; the last line may still be being written."""
    path = run_dir / "metrics.jsonl"
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [int(line.split(b":", 1)[1].split(b",", 1)[0].rstrip(b"}")) for line in whole]


def main(model: str, run_dir: str, ray_dir: str, ranks: str) -> None:
    import ray

    init_ray(num_cpus=4, temp_dir=Path(ray_dir), python_path=ROOT)
    train(settings(f"learner.ranks={ranks}"), Path(model), Path(run_dir))
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
