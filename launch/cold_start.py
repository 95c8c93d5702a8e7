"""The mini policy's cold start: supervised fine-tuning on the scripted teacher's episodes, cached.

Always learns on MiniWorld, whatever posts RL then trains on: the mini policy is not made for real ones.
Knows nothing of RL. Always holds: the cached folder's name is a hash of everything the result depends
on, and a folder is complete or absent.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

from actors.learner_group import make_learner_group
from envs.episode import EpisodeLimits, run_episode
from envs.tools.base import ToolClient
from envs.tools.registry import make_tool
from launch.datasets import cache_folder, load_miniworld
from launch.display import RunDisplay
from sake_ray.coldstart.demonstrations import choose_posts, demonstrate, judged, token_batches
from sake_ray.config.config import Config
from sake_ray.data.codec import ChatCodec
from sake_ray.data.collate import TrainSample
from sake_ray.interfaces import PolicyClient
from sake_ray.prompts import load_prompts
from sake_ray.trajectory import Trajectory
from sake_ray.types import Example

log = logging.getLogger(__name__)
MINI = "mini"
CARD = "card.json"


def base_model_folder() -> Path:
    """Where the package keeps the mini base model."""
    return Path(str(resources.files("sake_ray") / "assets" / "mini_base"))


async def starting_policy(config: Config, display: RunDisplay) -> Path:
    """The folder RL starts from: `model.path`, or for `mini` the base model after its cold start."""
    if config.model.path != MINI:
        return Path(config.model.path)
    folder = cache_folder(config) / f"cold-start-{fingerprint(config)}"
    if _is_complete(folder):
        log.info("cold start: using %s", folder)
        return folder
    await cold_start(config, folder, display)
    return folder


def _is_complete(folder: Path) -> bool:
    return (folder / "config.json").exists()


def fingerprint(config: Config) -> str:
    """12 hex digits over everything the cold start depends on: the base model, the prompts' words, the settings."""
    learner = config.learner
    kept = {
        "base": {path.name: _sha256(path) for path in sorted(base_model_folder().iterdir()) if path.name != CARD},
        "prompts": asdict(load_prompts(config.data.task, config.prompts.set, config.prompts.dir)),
        "sections": [asdict(section) for section in (config.sft, config.world, config.episode)],
        "pixels": [config.data.min_pixels, config.data.max_pixels],
        "search": [config.search.max_chars, config.search.images_per_query],
        # How the learner shares out its work (ranks, rows, chunks) changes no more than rounding.
        "learner": [config.model.dtype, learner.weight_decay, learner.max_grad_norm],
        "seed": config.run.seed,
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def cold_start(config: Config, folder: Path, display: RunDisplay) -> dict[str, float]:
    """Fine-tune the base model and write a Hugging Face folder; returns the last step's metrics."""
    began = time.monotonic()
    samples = await _samples(config)
    lengths = [len(sample.token_ids) for sample in samples]
    batches = list(token_batches(lengths, config.sft.batch_tokens, config.sft.epochs, config.run.seed))
    batches = batches[: config.sft.steps or None]
    log.info("cold start: %d demonstrations, %d steps", len(samples), len(batches))
    group = make_learner_group(_sft_config(config, len(batches)), base_model_folder())
    try:
        await group.start()
        metrics: dict[str, float] = {}
        for step, batch in enumerate(batches, start=1):
            metrics = await group.sft([samples[index] for index in batch])
            display.cold_start(step, len(batches), metrics)
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            await group.export(scratch)
            scratch.chmod(0o755)  # noqa: ASYNC240
            try:
                os.replace(scratch, folder)
            except OSError:
                # Another job with the same settings was quicker; its policy is as good.
                if not _is_complete(folder):
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        group.shutdown()
    log.info("cold start: done in %.0f s, %s", time.monotonic() - began, folder)
    return metrics


def _sft_config(config: Config, steps: int) -> Config:
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


async def _samples(config: Config) -> list[TrainSample]:
    data = load_miniworld(config)
    pixels = {"min_pixels": config.data.min_pixels, "max_pixels": config.data.max_pixels}
    prompts = load_prompts(config.data.task, config.prompts.set, config.prompts.dir)
    codec = ChatCodec.from_pretrained(
        str(base_model_folder()), prompts=prompts, max_result_chars=config.search.max_chars, **pixels
    )
    search = ToolClient(make_tool(replace(config.search, provider="local", root=""), default_root=str(data.root)))
    limits = EpisodeLimits(**asdict(config.episode))
    count = itertools.count()

    async def play(example: Example, teacher: PolicyClient) -> Trajectory:
        return await run_episode(
            example,
            policy=teacher,
            codec=codec,
            search=search,
            limits=limits,
            seed=0,
            trajectory_id=f"{example.id}/teacher-{next(count)}",
        )

    posts = judged(
        choose_posts(data.train, config.sft.posts, config.run.seed),
        search_unknown=config.sft.search_unknown,
        search_known=config.sft.search_known,
        seed=config.run.seed,
    )
    made = await demonstrate(posts, play, codec.tokenizer, looks=data.looks, **pixels)
    return [_sample(trajectory) for trajectory in made]


def _sample(trajectory: Trajectory) -> TrainSample:
    trajectory.advantage = 0.0
    return TrainSample.of(trajectory)
