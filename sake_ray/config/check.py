"""Combinations of settings that cannot work, refused before anything starts.

Knows nothing of how values were given. Always holds: each rule's message names the field to change, its value and a
value that would do. Limits of a single field are in sections.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from sake_ray.config.config import Config
from sake_ray.config.difficulty import parse_weights
from sake_ray.config.search_section import CACHE_MODES
from sake_ray.config.values import ConfigError, nearest, show

RELEASED_MAX_TURNS = 3
"""The released reward knows no longer episode (rewards/format.py; rewards are not to be imported from here)."""

# Estimators in verl's registry that need a critic, a second rollout or log-probs: more than outcome rewards give.
_NEEDY_ADVANTAGES = frozenset({"gae", "remax", "optimal_token_baseline", "tir_optimal_token_baseline"})
_BACKENDS = ("tensorboard", "wandb")


def check_combinations(config: Config) -> None:
    """Refuse what cannot work together.

    Raises:
        ConfigError: naming field, value and what to write instead.
    """
    _check_paths(config)
    _check_sizes(config)
    _check_reward(config)
    _check_engines(config)
    _check_sampling(config)
    _check_training(config)
    _check_stage_1(config)


def _refuse(field: str, value: object, why: str, instead: object = "") -> NoReturn:
    """Raise; `instead` is the nearest value that would do, shown as a user would write it."""
    hint = f"; nearest: {field}={show(instead)}" if instead != "" else ""
    raise ConfigError(f"{field}={show(value)}: {why}{hint}")


def _check_paths(config: Config) -> None:
    search, path, resume = config.search, config.model.path, config.trainer.resume
    folders = {
        "data.root": config.data.root,
        "data.image_dir": config.data.image_dir,
        "prompts.dir": config.prompts.dir,
        "search.root": search.root,
    }
    if search.provider == "offline":
        if not search.cache or search.cache in CACHE_MODES:
            why = "search.provider=offline reads it; nearest: search.cache=DIR or search.provider=local"
            _refuse("search.cache", search.cache, why)
        folders["search.cache"] = search.cache
    for field, folder in folders.items():
        if folder and not Path(folder).is_dir():
            _refuse(field, folder, "no such folder", _nearest_folder(Path(folder)))
    looks_like_hub_name = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    if path != "mini" and not looks_like_hub_name and not Path(path).is_dir():
        why = "neither mini, nor a hub name like Qwen/Qwen2.5-VL-3B-Instruct, nor a folder"
        _refuse("model.path", path, why, _nearest_folder(Path(path)))
    if resume not in ("auto", "never") and not Path(resume).is_dir():
        _refuse("trainer.resume", resume, "must be auto, never or the folder of a checkpoint", "auto")


def _nearest_folder(path: Path) -> Path:
    """The existing folder most like a missing one: its first missing part replaced by the likeliest sibling."""
    for part, parent in zip((path, *path.parents), path.parents, strict=False):
        if parent.is_dir():
            siblings = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
            likely = nearest(part.name, siblings, cutoff=0.6)
            return parent / likely[0] if likely else parent
    return Path()


def _check_sizes(config: Config) -> None:
    data, episode, learner = config.data, config.episode, config.learner
    if data.min_pixels > data.max_pixels:
        why = f"exceeds data.max_pixels={data.max_pixels}"
        _refuse("data.min_pixels", data.min_pixels, why, data.max_pixels)
    if episode.max_turn_tokens > episode.max_tokens:
        why = f"a turn exceeds the whole trajectory, episode.max_tokens={episode.max_tokens}"
        _refuse("episode.max_turn_tokens", episode.max_turn_tokens, why, episode.max_tokens)
    if learner.row_tokens > learner.micro_batch_tokens:
        why = f"a row exceeds learner.micro_batch_tokens={learner.micro_batch_tokens}"
        _refuse("learner.row_tokens", learner.row_tokens, why, learner.micro_batch_tokens)


def _check_reward(config: Config) -> None:
    reward, max_turns = config.reward, config.episode.max_turns
    if reward.preset == "release" and max_turns > RELEASED_MAX_TURNS:
        why = f"reward.preset=release scores at most {RELEASED_MAX_TURNS} turns and stops the run at a longer episode"
        _refuse("episode.max_turns", max_turns, why, RELEASED_MAX_TURNS)
    if reward.preset == "paper" and reward.use_search_count_penalty:
        why = "only reward.preset=release knows it; the paper's search term is reward.search_weight"
        _refuse("reward.use_search_count_penalty", True, why, False)


def _check_engines(config: Config) -> None:
    rollout, rank_gpus = config.rollout, config.learner.gpus_per_rank
    gpus, parallel = rollout.gpus_per_worker, rollout.tensor_parallel
    low, high = rollout.bounds() or (rollout.workers, rollout.workers)
    if not low <= rollout.workers <= high:
        why = f"outside rollout.autoscale={rollout.autoscale}, where the pool must begin"
        _refuse("rollout.workers", rollout.workers, why, min(max(rollout.workers, low), high))
    if gpus > 1 and not gpus.is_integer():
        _refuse("rollout.gpus_per_worker", gpus, "more than one GPU must be a whole number", int(gpus))
    if parallel > max(1, gpus):
        why = f"an engine has only rollout.gpus_per_worker={gpus:g}"
        _refuse("rollout.tensor_parallel", parallel, why, max(1, int(gpus)))
    if gpus > parallel:
        why = f"an engine uses rollout.tensor_parallel={parallel} of them; the others would be idle"
        _refuse("rollout.gpus_per_worker", gpus, why, parallel)
    if rank_gpus > 1:
        _refuse("learner.gpus_per_rank", rank_gpus, "a rank drives one GPU; take more learner.ranks", 1)
    if 0 < rank_gpus < 1 and config.learner.ranks > 1:
        why = f"{config.learner.ranks} ranks might share one GPU, which NCCL refuses"
        _refuse("learner.gpus_per_rank", rank_gpus, why, 1)
    if rank_gpus == 0 and config.model.dtype != "float32":
        why = "a learner on a CPU (learner.gpus_per_rank=0) computes in float32"
        _refuse("model.dtype", config.model.dtype, why, "float32")


def _check_sampling(config: Config) -> None:
    rollout = config.rollout
    if rollout.top_p < 1:
        why = (
            "training needs the log-probs of the distribution sampled from, and the learner cannot renormalise over "
            "a nucleus it has not seen; sharpen with rollout.temperature instead"
        )
        _refuse("rollout.top_p", rollout.top_p, why, 1.0)
    if rollout.group_size < 2:
        why = "an advantage compares the members of a group; a post with one trajectory carries no signal"
        _refuse("rollout.group_size", rollout.group_size, why, 2)


def _check_training(config: Config) -> None:
    advantage, groups = config.algorithm.advantage, config.trainer.groups_per_step
    if advantage in _NEEDY_ADVANTAGES:
        _refuse("algorithm.advantage", advantage, "needs more than the reward of each trajectory", "grpo")
    if config.trainer.max_staleness > 0 and config.algorithm.is_cap == 0:
        why = f"groups of older policies (trainer.max_staleness={config.trainer.max_staleness}) need weighing"
        _refuse("algorithm.is_cap", 0.0, why, 2.0)
    if config.learner.minibatches > groups:
        why = f"more than the groups of a step, trainer.groups_per_step={groups}"
        _refuse("learner.minibatches", config.learner.minibatches, why, groups)
    decay, updates = config.learner.decay_steps, config.trainer.total_steps * config.learner.minibatches
    if 0 < decay < updates:
        why = f"the learning rate would be 0 before the last of {updates} updates (trainer.total_steps x minibatches)"
        _refuse("learner.decay_steps", decay, why, updates)
    for backend in filter(None, (name.strip() for name in config.tracking.backends.split(","))):
        if backend not in _BACKENDS:
            why = f"{backend!r} must be one of {', '.join(_BACKENDS)}"
            _refuse("tracking.backends", config.tracking.backends, why, nearest(backend, _BACKENDS)[0])


def _check_stage_1(config: Config) -> None:
    parse_weights(config.data.difficulty)
    tags, secot = config.tags, config.secot
    if tags.file and not Path(tags.file).is_file():
        _refuse("tags.file", tags.file, "no such file; launch/tag_difficulty.py writes tags.jsonl")
    if secot.dir and not Path(secot.dir).is_dir():
        _refuse("secot.dir", secot.dir, "no such folder", _nearest_folder(Path(secot.dir)))
    if secot.teacher == "openai":
        if not secot.model:
            _refuse("secot.model", "", "secot.teacher=openai needs the model's name at the endpoint")
        if not secot.endpoint.startswith(("http://", "https://")):
            why = "must begin with http:// or https://"
            _refuse("secot.endpoint", secot.endpoint, why, f"http://{secot.endpoint}")
    episode, tools = config.episode, secot.tools
    if config.job == "build_secot" or config.model.path == "mini":
        for tool, allowed in (("text", episode.text_searches), ("image", episode.image_searches)):
            if tools in (tool, "tags") and not allowed:
                why = f"episode.{tool}_searches=0 allows no {tool} search, so every such trajectory would be rejected"
                _refuse("secot.tools", tools, why, "image" if tool == "text" else "text")
    is_built = config.job == "build_secot" and secot.tools == "tags"
    if is_built and config.reward.preset == "release" and not secot.image_first:
        why = "reward.preset=release finds a text search before an image search malformed"
        _refuse("secot.image_first", secot.image_first, why, True)
