"""Stage 1a's samples: each post is asked for once, whatever happens, and always with the same seeds.

What would go unseen otherwise: a resumed run that samples a post again or with other seeds, so that its tags are not
those of an uninterrupted run; samples of other weights, prompts or gold that are taken for this run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sake_ray.actions import parse_action
from sake_ray.coldstart.difficulty import Guess
from sake_ray.coldstart.sampling import SAMPLES, SampleFile, SamplingSettings, answer_of, sample_posts
from sake_ray.coldstart.stage_folder import SETTINGS
from sake_ray.data.problems import DataError
from sake_ray.seeding import derive_seed
from sake_ray.trajectory import Trajectory, TrajectoryGroup, Turn
from sake_ray.types import Box, Entity, Example, StopReason
from tests.sake_ray.coldstart.posts import ADA, OSLO, answers, asks, played, post

SETTINGS_USED = SamplingSettings(
    task="gmner", n=3, seed=7, temperature=1.0, model="abc", prompt="def", min_pixels=1, max_pixels=10**6,
    max_turn_tokens=64, in_flight=3,
)  # fmt: skip
POSTS = [post(ADA, OSLO, name=f"p{number}") for number in range(8)]


class KilledError(Exception):
    """Stands for whatever ends a run."""


class Pool:
    """Answers by seed: so the file shows which seeds were used; may end the run at a call."""

    def __init__(self, killed_at: int = -1) -> None:
        self.killed_at = killed_at
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    async def rollout(self, example: Example, *, seeds: Sequence[int], greedy: bool = False) -> TrajectoryGroup:
        if len(self.asked) == self.killed_at:
            raise KilledError
        self.asked.append((example.id, tuple(seeds)))
        return TrajectoryGroup(example, [self.episode(example, seed) for seed in seeds])

    def episode(self, example: Example, seed: int) -> Trajectory:
        text = answers((f"n{seed}", "PER", [seed % 50] * 4))
        trajectory = Trajectory("t", example, turns=[Turn(text, parse_action(text))])
        trajectory.finish(StopReason.ANSWER)
        return trajectory


async def sample(folder: Path, pool: Pool, posts: Sequence[Example] = POSTS, **changes: object) -> SampleFile:
    settings = replace(SETTINGS_USED, **changes)  # type: ignore[arg-type]
    file = SampleFile(folder, settings)
    await sample_posts(pool, posts, file, settings)
    return file


def lines(folder: Path) -> list[str]:
    return sorted((folder / SAMPLES).read_text().splitlines())


@pytest.mark.parametrize("half_a_line", [False, True], ids=["killed", "killed while writing"])
async def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path, half_a_line: bool) -> None:
    whole = Pool()
    await sample(tmp_path / "whole", whole)
    assert [post_id for post_id, _ in whole.asked] == [example.id for example in POSTS]

    killed, again = Pool(killed_at=5), Pool()
    with pytest.raises(KilledError):
        await sample(tmp_path / "run", killed)
    path = tmp_path / "run" / SAMPLES
    kept = path.read_bytes()
    if half_a_line:
        path.write_bytes(kept[:-20])
    done = {line.split('"img_id": "')[1][:2] for line in path.read_text().splitlines() if line.endswith("}")}
    assert done
    await sample(tmp_path / "run", again)

    assert [post_id for post_id, _ in again.asked] == [example.id for example in POSTS if example.id not in done]
    assert {call for call in killed.asked if call[0] in done} | set(again.asked) == set(whole.asked)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    third = Pool()
    await sample(tmp_path / "run", third)
    assert not third.asked


async def test_seeds_are_the_posts_own_and_not_those_of_its_place(tmp_path: Path) -> None:
    pool = Pool()
    await sample(tmp_path, pool, POSTS[4:5])
    assert pool.asked == [("p4", tuple(derive_seed(7, "tag", "p4", index) for index in range(3)))]


async def test_progress_counts_what_is_there_already(tmp_path: Path) -> None:
    await sample(tmp_path, Pool(), POSTS[:3])
    heard: list[tuple[int, int]] = []
    file = SampleFile(tmp_path, SETTINGS_USED)
    await sample_posts(Pool(), POSTS, file, SETTINGS_USED, lambda done, total: heard.append((done, total)))
    assert heard == [(done, 8) for done in range(3, 9)]


async def test_samples_of_other_settings_are_refused(tmp_path: Path) -> None:
    await sample(tmp_path, Pool(), POSTS[:1])
    await sample(tmp_path, Pool(), POSTS[:1], in_flight=1)  # changes nothing but speed
    with pytest.raises(DataError, match=r"made with other settings \(model, n differ\); choose another run\.dir"):
        await sample(tmp_path, Pool(), n=4, model="other")
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(DataError, match=r"settings\.json: json: .*choose another run\.dir"):
        await sample(tmp_path, Pool())


async def test_samples_of_other_gold_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    await sample(tmp_path, Pool(), POSTS[:2])
    pool = Pool()
    other = replace(POSTS[1], entities=(replace(ADA, boxes=(Box(5, 5, 9, 9),)), OSLO))
    with pytest.raises(DataError, match="post p1 was sampled with other gold"):
        await sample(tmp_path, pool, [POSTS[0], other, *POSTS[2:]])
    assert not pool.asked


def test_only_an_answer_is_a_sample_and_its_boxes_are_in_original_pixels() -> None:
    settings = replace(SETTINGS_USED, min_pixels=168 * 168)  # twice as wide as the post
    example = post(Entity("Ada", "PER"))
    said = answers(("Ada", "PER", [10, 20, 60, 80]), ("Oslo", "LOC", []))
    assert answer_of(played(example, said), settings) == (
        Guess("Ada", "PER", (5, 10, 30, 40)),
        Guess("Oslo", "LOC", None),
    )
    assert answer_of(played(example, answers()), settings) == ()
    for broken in ("no", asks("text_search", "Ada")):
        trajectory = played(example, broken, broken, broken)
        assert trajectory.stop_reason in (StopReason.MALFORMED, StopReason.SEARCH_LIMIT)
        assert answer_of(trajectory, settings) is None
