"""Stage 1a as a part: samples posts without tools on a rollout pool and writes tags and a report.

Knows nothing of where posts come from or what is done with the tags. Always holds: the tags of a folder are made of
its samples file alone; what was sampled is never sampled again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from envs.search_env import NoSearch
from launch.display import RunDisplay
from launch.pools import direct_settings, rollout_pool
from sake_ray.coldstart.difficulty import tag_post
from sake_ray.coldstart.sampling import SampleFile, SamplingSettings, sample_posts
from sake_ray.coldstart.tag_files import read_tags, tag_row, with_difficulty
from sake_ray.coldstart.tag_report import TagReport
from sake_ray.config.config import Config
from sake_ray.data.json_files import write_lines
from sake_ray.prompts import load_direct_prompts
from sake_ray.types import Example

log = logging.getLogger(__name__)
TAGS = "tags.jsonl"
_WHOLE = 64 * 2**20
_NOTES = ("card.json", "best.json")  # about a model, not of it


async def tag_posts(
    config: Config, examples: Sequence[Example], model: Path, folder: Path, display: RunDisplay
) -> TagReport:
    """Sample what is missing, then write `tags.jsonl`, the report and the plot into `folder`.

    Raises:
        DataError: the folder holds samples of other settings or posts.
    """
    settings = sampling_settings(config, model)
    file = SampleFile(folder, settings)
    if any(example.id not in file.posts for example in examples):
        async with rollout_pool(direct_settings(config, model), NoSearch(), config.rollout.workers) as pool:
            await sample_posts(
                pool, examples, file, settings, lambda done, total: display.progress("tags", done, total, "posts")
            )
    return write_tags(examples, file, settings.n, folder)


def write_tags(examples: Sequence[Example], file: SampleFile, n: int, folder: Path) -> TagReport:
    """The tags and the report of posts that have been sampled."""
    posts = [file.samples_of(example) for example in examples]
    tags = [tag_post(example, post.samples, n) for example, post in zip(examples, posts, strict=True)]
    rows = [
        tag_row(example, found, n=n, malformed=post.malformed)
        for example, found, post in zip(examples, tags, posts, strict=True)
    ]
    write_lines(folder / TAGS, rows)
    tagged = with_difficulty(examples, read_tags(folder / TAGS), str(folder / TAGS))
    report = TagReport.of(examples, tags, tagged, n=n, malformed=sum(post.malformed for post in posts))
    report.write(folder)
    return report


def sampling_settings(config: Config, model: Path) -> SamplingSettings:
    """What the samples depend on."""
    tags, rollout = config.tags, config.rollout
    prompt = load_direct_prompts(config.data.task, config.prompts.set, config.prompts.dir).instruction
    return SamplingSettings(
        task=config.data.task,
        n=tags.samples,
        seed=config.run.seed,
        temperature=tags.temperature,
        model=model_fingerprint(model),
        prompt=hashlib.sha256(prompt.encode()).hexdigest()[:12],
        min_pixels=config.data.min_pixels,
        max_pixels=config.data.max_pixels,
        max_turn_tokens=config.episode.max_turn_tokens,
        dtype=rollout.dtype,
        # Twice what the engines decode at once, so that none runs dry; more would only sit in memory.
        in_flight=max(1, 2 * rollout.workers * rollout.max_num_seqs // tags.samples),
    )


def model_fingerprint(folder: Path) -> str:
    """12 hex digits over a Hugging Face folder; of a file over 64 MiB size, beginning and end stand for the whole."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name in _NOTES:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(min(size, _WHOLE)))
            if size > _WHOLE:
                file.seek(-min(size, _WHOLE // 64), os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()[:12]
