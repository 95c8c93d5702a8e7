"""What a supervised run learns from, in which order, and all that its result depends on.

Knows nothing of Ray, processes or training. Always holds: the same demonstrations, settings and seed give the same
held-out posts, samples and batches on every rank and after every restart; how the work is shared out (ranks, rows,
micro-batches) and how often it is looked at or saved is no part of a run's `inputs`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from envs.episode import EpisodeLimits
from envs.replay import replay
from sake_ray.coldstart.batches import token_batches
from sake_ray.coldstart.teaching import Demonstration
from sake_ray.config.config import Config
from sake_ray.data.codec import ChatCodec
from sake_ray.data.collate import TrainSample
from sake_ray.prompts import Prompts
from sake_ray.types import ImageRef, Observation

Inputs = dict[str, str | int | float]
"""Name → value of everything the trained policy depends on; files and texts by their SHA-256."""

NOT_WEIGHTS = ("card.json", "README.md")
"""Files of a model folder that nobody computes with."""

_SETTINGS = {
    "run": ("seed",),
    "data": ("task", "min_pixels", "max_pixels"),
    "model": ("dtype",),
    "episode": ("max_turns", "text_searches", "image_searches", "max_queries", "max_tokens", "max_turn_tokens",
                "max_images"),
    "search": ("max_chars",),
    "learner": ("weight_decay", "max_grad_norm"),
    "sft": ("steps", "lr", "warmup_ratio", "epochs", "batch_tokens", "frozen", "held_out"),
}  # fmt: skip


@dataclass(frozen=True)
class SftTask:
    """All that a rank needs to know. `model` and `run_dir` are absolute and seen by every node."""

    config: Config
    model: Path
    run_dir: Path
    prompts: Prompts
    demonstrations: tuple[Demonstration, ...]
    inputs: Inputs


@dataclass(frozen=True)
class SftData:
    """Samples to train on and to measure on, and the batches: indices into `train`, one list a step."""

    train: tuple[TrainSample, ...]
    held_out: tuple[TrainSample, ...]
    batches: tuple[tuple[int, ...], ...]


def make_data(task: SftTask) -> SftData:
    """The samples and batches of a task.

    Raises:
        ReplayError: a demonstration that does not run to its answer; names the post.
    """
    config, sft = task.config, task.config.sft
    codec = ChatCodec.from_pretrained(
        str(task.model),
        prompts=task.prompts,
        min_pixels=config.data.min_pixels,
        max_pixels=config.data.max_pixels,
        max_result_chars=config.search.max_chars,
    )
    limits = EpisodeLimits(**asdict(config.episode))
    train, held_out = split_posts(task.demonstrations, sft.held_out, config.run.seed)

    async def samples(demonstrations: Sequence[Demonstration]) -> tuple[TrainSample, ...]:
        return tuple([await _sample(demonstration, codec, limits) for demonstration in demonstrations])

    learnt, kept = asyncio.run(samples(train)), asyncio.run(samples(held_out))
    lengths = [len(sample.token_ids) for sample in learnt]
    batches = token_batches(lengths, sft.batch_tokens, sft.epochs, config.run.seed)
    return SftData(learnt, kept, tuple(tuple(batch) for batch in batches)[: sft.steps or None])


async def _sample(demonstration: Demonstration, codec: ChatCodec, limits: EpisodeLimits) -> TrainSample:
    trajectory = await replay(demonstration, codec=codec, limits=limits)
    trajectory.advantage = 0.0
    return TrainSample.of(trajectory)


def split_posts(
    demonstrations: Sequence[Demonstration], share: float, seed: int
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Demonstrations to train on and of the held-out posts: a seeded share, at least one post of two or more."""
    posts = list(dict.fromkeys(demonstration.example.id for demonstration in demonstrations))
    count = min(len(posts) - 1, max(1, round(share * len(posts)))) if share > 0 and posts else 0
    chosen = set(random.Random(f"sft-held-out-{seed}").sample(posts, count))
    train = [d for d in demonstrations if d.example.id not in chosen]
    return train, [d for d in demonstrations if d.example.id in chosen]


def sft_config(config: Config, steps: int) -> Config:
    """The learner's settings for supervised steps: their own learning rate, no temperature, no reference policy."""
    warmup = max(1, round(config.sft.warmup_ratio * steps))
    return replace(
        config,
        learner=replace(
            config.learner, lr=config.sft.lr, warmup_steps=warmup, decay_steps=steps, frozen=config.sft.frozen
        ),
        rollout=replace(config.rollout, temperature=1.0),
        algorithm=replace(config.algorithm, kl_coef=0.0),
    )


# --- what the result depends on -----------------------------------------------------------------------


def sft_inputs(config: Config, model: Path, prompts: Prompts, demonstrations: Sequence[Demonstration]) -> Inputs:
    """Everything the trained policy depends on, by name; reads the model's files."""
    inputs: Inputs = {
        f"{section}.{name}": getattr(getattr(config, section), name)
        for section, names in _SETTINGS.items()
        for name in names
    }
    files = sorted(path for path in model.iterdir() if path.is_file() and path.name not in NOT_WEIGHTS)
    inputs["model"] = _digest({path.name: _file_digest(path) for path in files})
    inputs["prompts"] = _digest(asdict(prompts))
    inputs["demonstrations"] = _digest([_facts(demonstration) for demonstration in demonstrations])
    return inputs


def differences(then: Mapping[str, Any], now: Inputs) -> list[str]:
    """What is not as it was, in words: `sft.lr (0.001 then, 0.002 now)`, `demonstrations`."""
    return [
        name
        if name in ("model", "prompts", "demonstrations")
        else f"{name} ({then.get(name)} then, {now.get(name)} now)"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def _facts(demonstration: Demonstration) -> list[Any]:
    """What is trained of a demonstration; not who wrote it, how long a search took, or in which folder a picture is."""
    turns = [[turn.text, _shown(turn.observation)] for turn in demonstration.turns]
    example = demonstration.example
    return [example.id, example.text, _picture(example.image), turns]


def _shown(observation: Observation | None) -> list[Any] | None:
    if observation is None:
        return None
    results = [[r.query, r.status, r.text, [_picture(image) for image in r.images]] for r in observation.results]
    return [observation.kind, results]


def _picture(image: ImageRef) -> list[Any]:
    standin = None if image.standin is None else [[box.as_list(), label] for box, label in image.standin]
    data = None if image.data is None else hashlib.sha256(image.data).hexdigest()
    return [Path(image.path).name, image.width, image.height, standin, data]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
