"""Samples the base model's answers to posts without tools (method, stage 1a), post by post, into a file.

Knows nothing of engines or Ray: it asks a `RolloutClient`. Always holds: a post is in the file once, with all its
samples, or not at all; a run that goes on in the same folder asks only for the posts that are missing, with the very
seeds an uninterrupted run would have used; a folder of other settings is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sake_ray.coldstart.all_posts import for_all
from sake_ray.coldstart.difficulty import Guess, Sample
from sake_ray.coldstart.stage_folder import GrowingFile, claim
from sake_ray.coldstart.tag_files import SampledPost, read_element, read_samples, sample_row
from sake_ray.data.images import answer_in_original
from sake_ray.data.problems import DataError
from sake_ray.interfaces import RolloutClient
from sake_ray.seeding import derive_seed
from sake_ray.trajectory import Trajectory
from sake_ray.types import Example

SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class SamplingSettings:
    """What the samples depend on beside the posts; `model` identifies the weights.

    `in_flight` posts are asked for at once; it changes nothing but speed.
    """

    task: str
    n: int
    seed: int
    temperature: float
    model: str
    prompt: str
    min_pixels: int
    max_pixels: int
    max_turn_tokens: int
    dtype: str = "float32"
    in_flight: int = 64

    def identity(self) -> dict[str, Any]:
        """All that makes two runs' samples the same."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "in_flight"}


class SampleFile:
    """The samples of a folder: those that are there, and a place for more."""

    def __init__(self, folder: Path, settings: SamplingSettings) -> None:
        """Open or begin the file.

        Raises:
            DataError: the folder holds samples of other settings, or the file is broken.
        """
        claim(folder, settings.identity())
        self._settings = settings
        self._file = GrowingFile(folder / SAMPLES)
        found = [] if self._file.empty else list(read_samples(self._file.path))
        self.posts: dict[str, SampledPost] = {post.id: post for post in found}

    def add(self, example: Example, samples: Sequence[Sample]) -> None:
        """Keep a post's samples; on disk when this returns."""
        row = sample_row(self._settings.task, self._settings.n, example, samples)
        self._file.add(row)
        self.posts[example.id] = next(read_element(row))

    def samples_of(self, example: Example) -> SampledPost:
        """A post's samples.

        Raises:
            DataError: they were taken of a post with other gold.
        """
        post = self.posts[example.id]
        expected = next(read_element(sample_row(self._settings.task, self._settings.n, example, ())))
        if post.gold != expected.gold:
            raise DataError(
                f"{self._file.path}: post {example.id} was sampled with other gold; choose another run.dir, or remove "
                "the file"
            )
        return post


async def sample_posts(
    rollout: RolloutClient,
    examples: Sequence[Example],
    file: SampleFile,
    settings: SamplingSettings,
    on_post: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Ask for every post that the file lacks; `on_post` hears how many are done.

    Raises:
        DataError: a post of the file was sampled with other gold; said before anything is asked for.
    """
    missing = [example for example in examples if example.id not in file.posts]
    for example in examples:
        if example.id in file.posts:
            file.samples_of(example)

    async def one(example: Example) -> None:
        seeds = [derive_seed(settings.seed, "tag", example.id, index) for index in range(settings.n)]
        group = await rollout.rollout(example, seeds=seeds)
        file.add(example, [answer_of(trajectory, settings) for trajectory in group.trajectories])

    await for_all(missing, one, at_once=settings.in_flight, total=len(examples), on_post=on_post)


def answer_of(trajectory: Trajectory, settings: SamplingSettings) -> Sample:
    """What an episode answered, boxes in original pixels; None for anything but an answer."""
    if trajectory.answer is None:
        return None
    image = trajectory.example.image
    said = answer_in_original(
        trajectory.answer,
        (image.width, image.height),
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
    )
    return tuple(Guess(*entity) for entity in said)
