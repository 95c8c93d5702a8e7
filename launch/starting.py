"""Where RL starts from: the policy, and the training posts with their difficulty.

For `model.path=mini` the method's own stages are run first, on MiniWorld whatever posts RL then trains on (the mini
policy is not made for real ones): tags → SeCoT → cold start. Each has a folder beside the run's, named by a hash of
all its inputs, and is left out when its result is there. Any other model is taken as it is: its stages are jobs of
their own. Knows nothing of how a stage does its work. Always holds: two jobs never work in one folder at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from actors.sft_trainer import fine_tune
from launch.building import build_secot, identity
from launch.display import RunDisplay
from launch.job_data import DataSet, cache_folder, load_miniworld
from launch.tagging import TAGS, model_fingerprint, sampling_settings, tag_posts
from sake_ray.coldstart.difficulty import post_difficulty
from sake_ray.coldstart.secot_files import CARD
from sake_ray.coldstart.tag_files import read_tags, with_difficulty
from sake_ray.config.config import Config, section_hash
from sake_ray.config.difficulty import parse_weights, weights_of
from sake_ray.config.search_section import SearchConfig
from sake_ray.types import Example

log = logging.getLogger(__name__)
MINI = "mini"


@dataclass(frozen=True)
class StageLine:
    """What became of a stage, for the final report."""

    stage: str
    seconds: float
    reused: bool
    folder: str
    facts: Mapping[str, float]

    def text(self) -> str:
        """One line."""
        facts = ", ".join(f"{name} {value:g}" for name, value in self.facts.items())
        return f"{self.stage:<12}{'reused' if self.reused else f'{self.seconds:.0f} s':>8}  {facts}"


@dataclass(frozen=True)
class Start:
    """What RL starts from.

    Attributes:
        model: Hugging Face folder of the policy.
        train: the training posts, with the difficulty of their tags where they were tagged.
        weights: how often an epoch has each; None: once.
        stages: the stages that led here.
    """

    model: Path
    train: tuple[Example, ...]
    weights: tuple[float, ...] | None
    stages: tuple[StageLine, ...] = ()


def base_model_folder() -> Path:
    """Where the package keeps the mini base model."""
    return Path(str(resources.files("sake_ray") / "assets" / "mini_base"))


def base_model(config: Config) -> Path:
    """The model a job names: the shipped one for `mini`."""
    return base_model_folder() if config.model.path == MINI else Path(config.model.path)


async def starting_point(config: Config, data: DataSet, display: RunDisplay) -> Start:
    """The policy and posts of an RL job; runs the stages of the mini policy that are not there yet.

    Raises:
        DataError: tags are of other data, or a stage has nothing to work on.
        ConfigError: data.difficulty leaves no post.
    """
    if config.model.path != MINI:
        return chosen(config, data, base_model(config), config.tags.file)
    world = _on_miniworld(config)
    posts = load_miniworld(world)
    lines = []
    tags_file, tags_id = config.tags.file, ""
    if not tags_file:
        tagged_in, line, tags_id = await _tags(world, posts, display)
        tags_file = str(tagged_in / TAGS)
        lines.append(line)
    secot, line = await _secot(world, posts, tags_file, tags_id, display)
    lines.append(line)
    policy, line = await _cold_start(world, secot, display)
    lines.append(line)
    if config.data.root:  # real posts: MiniWorld's tags are not theirs
        return replace(chosen(config, data, policy, ""), stages=tuple(lines))
    return replace(chosen(config, data, policy, tags_file), stages=tuple(lines))


def chosen(config: Config, data: DataSet, model: Path, tags_file: str) -> Start:
    """The training posts by `data.difficulty`, where they have tags; all of them where they have not."""
    if not tags_file:
        return Start(model, data.train, None)
    examples = with_difficulty(data.train, read_tags(Path(tags_file)), tags_file, config.tags.known_by)
    hardest = [post_difficulty(example) for example in examples]
    weights = weights_of(hardest, parse_weights(config.data.difficulty))
    kept = [(example, weight) for example, weight in zip(examples, weights, strict=True) if weight > 0]
    log.info("RL trains on %d of %d posts (data.difficulty=%s)", len(kept), len(data.train), config.data.difficulty)
    return Start(model, tuple(example for example, _ in kept), tuple(weight for _, weight in kept))


def tagged(config: Config, examples: Sequence[Example]) -> tuple[Example, ...]:
    """The posts with the difficulty of `tags.file`; with the marks the data set brought along when there is none."""
    if not config.tags.file:
        return tuple(examples)
    return with_difficulty(examples, read_tags(Path(config.tags.file)), config.tags.file, config.tags.known_by)


# --- the mini policy's stages ----------------------------------------------------------------------------


async def _tags(config: Config, posts: DataSet, display: RunDisplay) -> tuple[Path, StageLine, str]:
    model = base_model_folder()
    examples = posts.train[: config.tags.posts or None]
    inputs = [sampling_settings(config, model).identity(), section_hash(config.world), config.tags.posts]
    fingerprint = _digest(inputs)
    folder = cache_folder(config) / f"tags-{fingerprint}"
    report = folder / "report.json"
    async with _stage("tags", folder, report) as stage:
        if not stage.reused:
            log.info("\n%s", (await tag_posts(config, examples, model, folder, display)).table())
        found = json.loads(report.read_text(encoding="utf-8"))
        counts = {f"{name} posts": float(found["posts"][name]) for name in ("known", "ambiguous", "unknown")}
        agreement = {
            f"{name} {kind}": round(value, 3)
            for name, scores in found["agreement"].items()
            for kind, value in scores.items()
        }
        stage.facts = counts | agreement
    return folder, stage.line(), fingerprint


async def _secot(
    config: Config, posts: DataSet, tags_file: str, tags_id: str, display: RunDisplay
) -> tuple[Path, StageLine]:
    model = base_model_folder()
    content = tags_id or _file_digest(Path(tags_file))
    secot = {name: value for name, value in asdict(config.secot).items() if name not in ("dir", "concurrency")}
    inputs = [
        identity(config, model),
        secot,
        content,
        section_hash(config.world),
        config.run.seed,
    ]
    folder = cache_folder(config) / f"secot-{_digest(inputs)}"
    async with _stage("SeCoT", folder, folder / CARD) as stage:
        if not stage.reused:
            config = replace(config, tags=replace(config.tags, file=tags_file))
            report = await build_secot(
                config,
                tagged(config, posts.train),
                read_tags(Path(tags_file)),
                looks=posts.looks,
                model=model,
                data_root=posts.root,
                folder=folder,
                display=display,
            )
            log.info("\n%s", report.table())
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        stage.facts = {
            "trajectories": found["accepted"],
            "rejected tries": found["tries"] - found["accepted"],
            "searches": found["searches"],
        }
    return folder, stage.line()


async def _cold_start(config: Config, secot: Path, display: RunDisplay) -> tuple[Path, StageLine]:
    model = base_model_folder()
    learner = {"weight_decay": config.learner.weight_decay, "max_grad_norm": config.learner.max_grad_norm}
    sft = {
        name: value
        for name, value in asdict(config.sft).items()
        if name not in ("eval_every", "checkpoint_every", "max_failures")
    }
    inputs = [secot.name, sft, learner, model_fingerprint(model), config.model.dtype, config.run.seed]
    folder = cache_folder(config) / f"cold-start-{_digest(inputs)}"
    async with _stage("cold start", folder, folder / "policy" / "sft.json") as stage:
        result = await fine_tune(
            # How a run is followed is the RL job's; the cold start's rows are in its own folder.
            replace(config, tracking=replace(config.tracking, backends="")),
            model=model,
            data=secot,
            run_dir=folder,
            on_step=display.cold_start,
        )
        loss = {name: value for name, value in result.metrics.items() if name.endswith("/loss")}
        stage.facts = {"steps": float(result.steps)} | {name: round(value, 4) for name, value in loss.items()}
    return result.policy, stage.line()


def _on_miniworld(config: Config) -> Config:
    """The settings of the mini policy's stages: MiniWorld's posts and encyclopaedia, whatever RL uses."""
    data = replace(config.data, root="", image_dir="", images="files", task="gmner", subset="all")
    kept = ("workers", "cpus_per_worker", "max_pending", "timeout_s", "max_chars", "images_per_query")
    search = SearchConfig(**{name: getattr(config.search, name) for name in kept})
    return replace(config, data=data, search=search)


class _Stage:
    """A stage under way: what it will say in the report."""

    def __init__(self, name: str, folder: Path, reused: bool) -> None:
        self.name, self.folder, self.reused = name, folder, reused
        self.began = time.monotonic()
        self.facts: Mapping[str, float] = {}

    def line(self) -> StageLine:
        return StageLine(self.name, time.monotonic() - self.began, self.reused, str(self.folder), self.facts)


@contextlib.asynccontextmanager
async def _stage(name: str, folder: Path, complete: Path) -> AsyncIterator[_Stage]:
    """Hold a stage's folder; `complete` is the file it writes last."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    log.info("%s: another job is making %s; waiting for it", name, folder)
                waiting = True
                await asyncio.sleep(0.5)
        stage = _Stage(name, folder, _is_there(complete))
        log.info("%s: %s", name, f"using {folder}" if stage.reused else f"making {folder}")
        yield stage
        if not stage.reused:
            log.info("%s: done in %.0f s", name, time.monotonic() - stage.began)


def _is_there(path: Path) -> bool:
    return path.exists()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
