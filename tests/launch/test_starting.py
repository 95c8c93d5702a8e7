"""The mini policy's stages: each runs once for its inputs, and again when, and only when, one of them has changed.

What would go unseen otherwise: RL that starts from a policy trained on other tags, prompts or weights; minutes of work
done again for a setting that has nothing to do with it; two jobs that write into one folder.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from actors.sft_trainer import SftResult
from launch import starting
from launch.display import RunDisplay
from launch.job_data import DataSet, load_data
from launch.starting import Start, base_model_folder, starting_point
from sake_ray.coldstart.difficulty import EntityTag
from sake_ray.coldstart.secot_files import CARD
from sake_ray.coldstart.tag_files import tag_row
from sake_ray.config.config import Config
from sake_ray.config.load import resolve
from sake_ray.config.values import ConfigError
from sake_ray.data.json_files import write_lines
from sake_ray.data.problems import DataError
from sake_ray.types import Difficulty, Example

WORLD = {"world.train_posts": "12", "world.long_tail": "20", "world.dev_posts": "1", "world.test_posts": "1"}


class Stages:
    """Stands in for the three stages: notes which ran, and leaves what they leave."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.taught: list[Example] = []
        patch.setattr(starting, "tag_posts", self._tag)
        patch.setattr(starting, "build_secot", self._build)
        patch.setattr(starting, "fine_tune", self._tune)

    async def _tag(self, config: Config, examples: Sequence[Example], model: Path, folder: Path, display: Any) -> Any:
        self.ran.append("tags")
        folder.mkdir(parents=True)  # noqa: ASYNC240
        rows = []
        for number, example in enumerate(examples):
            hits = (0, 2, 4)[number % 3]
            tags = [EntityTag(4, hits, hits, hits) for _ in example.entities]
            rows.append(tag_row(example, tags, n=4, malformed=0))
        write_lines(folder / "tags.jsonl", rows)
        counts = {"known": 4, "ambiguous": 4, "unknown": 4}
        (folder / "report.json").write_text(json.dumps({"posts": counts, "agreement": {}}))
        return _Table()

    async def _build(self, config: Config, examples: Sequence[Example], tags: Any, **places: Any) -> Any:
        self.ran.append("SeCoT")
        self.taught = list(examples)
        folder: Path = places["folder"]
        folder.mkdir(parents=True)  # noqa: ASYNC240
        (folder / "report.json").write_text(json.dumps({"accepted": 8, "tries": 9, "searches": 4}))
        (folder / CARD).write_text("card")
        return _Table()

    async def _tune(self, config: Config, *, model: Path, data: Path, run_dir: Path, on_step: Any) -> SftResult:
        policy = run_dir / "policy"
        if not policy.exists():
            self.ran.append("cold start")
            policy.mkdir(parents=True)
            (policy / "sft.json").write_text("{}")
        return SftResult(policy, 3, 8, 1, {"train/loss": 0.5})


class _Table:
    def table(self) -> str:
        return ""


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(monkeypatch)


def config(tmp_path: Path, **changes: str) -> Config:
    settings = WORLD | {"run.dir": str(tmp_path / "one")} | changes
    return resolve([f"{key}={value}" for key, value in settings.items()], job="test")


def start(settings: Config) -> Start:
    return asyncio.run(starting_point(settings, load_data(settings), cast(RunDisplay, _Display())))


class _Display:
    cold_start = None


ALL = ["tags", "SeCoT", "cold start"]
CASES: list[tuple[Mapping[str, str], list[str]]] = [
    ({"run.seed": "1"}, ALL),
    ({"world.seed": "1"}, ALL),
    ({"tags.samples": "5"}, ALL),
    ({"tags.temperature": "0.5"}, ALL),
    ({"prompts.set": "full"}, ALL),
    ({"data.max_pixels": "28224"}, ALL),
    ({"episode.text_searches": "2"}, ALL[1:]),
    ({"search.max_chars": "40"}, ALL[1:]),
    ({"secot.posts": "5"}, ALL[1:]),
    ({"secot.ambiguous": "search"}, ALL[1:]),
    ({"sft.lr": "0.002"}, ALL[2:]),
    ({"sft.frozen": "none"}, ALL[2:]),
    ({"learner.max_grad_norm": "0.5"}, ALL[2:]),
    ({"sft.eval_every": "7"}, []),
    ({"secot.concurrency": "3"}, []),
    ({"rollout.temperature": "0.7"}, []),
    ({"reward.gamma": "0.5"}, []),
    ({"trainer.total_steps": "7"}, []),
    ({"learner.lr": "0.00001"}, []),
    ({"eval.split": "test"}, []),
    ({"data.difficulty": "ambiguous"}, []),
]


@pytest.mark.parametrize(("changes", "expected"), CASES, ids=[str(changes) for changes, _ in CASES])
def test_a_stage_runs_again_only_when_something_it_depends_on_changed(
    tmp_path: Path, stages: Stages, changes: Mapping[str, str], expected: list[str]
) -> None:
    first = start(config(tmp_path))
    assert stages.ran == ALL
    assert [line.reused for line in first.stages] == [False] * 3
    stages.ran.clear()
    again = start(config(tmp_path, **{"run.dir": str(tmp_path / "two")} | dict(changes)))
    assert stages.ran == expected
    assert [line.stage for line in again.stages if not line.reused] == expected
    assert (again.model == first.model) == (not expected)


def test_rl_gets_the_posts_that_data_difficulty_asks_for(tmp_path: Path, stages: Stages) -> None:
    found = start(config(tmp_path, **{"data.difficulty": "ambiguous,unknown:0.5"}))
    by_difficulty = {
        {entity.difficulty for entity in example.entities}.pop(): weight
        for example, weight in zip(found.train, found.weights or (), strict=True)
    }
    assert by_difficulty == {Difficulty.AMBIGUOUS: 1.0, Difficulty.UNKNOWN: 0.5}
    assert len(found.train) == 8
    assert {entity.difficulty for example in stages.taught for entity in example.entities} == set(Difficulty)


def test_tags_of_the_users_own_take_the_place_of_stage_1a(tmp_path: Path, stages: Stages) -> None:
    settings = config(tmp_path)
    examples = load_data(settings).train[:6]
    rows = [tag_row(e, [EntityTag(4, 4, 4, 4)] * len(e.entities), n=4, malformed=0) for e in examples]
    write_lines(tmp_path / "mine.jsonl", rows)
    found = start(config(tmp_path, **{"tags.file": str(tmp_path / "mine.jsonl")}))
    assert stages.ran == ALL[1:]
    assert len(found.train) == 6
    rows[0]["entities"][0]["type"] = "ORG" if rows[0]["entities"][0]["type"] != "ORG" else "PER"
    write_lines(tmp_path / "mine.jsonl", rows)
    with pytest.raises(DataError, match="made for other data"):
        start(config(tmp_path, **{"tags.file": str(tmp_path / "mine.jsonl")}))


def test_a_model_of_the_users_own_is_taken_as_it_is(tmp_path: Path, stages: Stages) -> None:
    settings = config(tmp_path, **{"model.path": str(base_model_folder())})
    found = start(settings)
    assert (found.model, found.weights, stages.ran) == (base_model_folder(), None, [])
    assert found.train == load_data(settings).train


def test_a_difficulty_that_leaves_no_post_is_refused_with_the_counts(tmp_path: Path, stages: Stages) -> None:
    settings = config(tmp_path)
    examples = load_data(settings).train[:6]
    rows = [tag_row(e, [EntityTag(4, 4, 4, 4)] * len(e.entities), n=4, malformed=0) for e in examples]
    write_lines(tmp_path / "mine.jsonl", rows)
    with pytest.raises(ConfigError, match="leaves no training post; there are: known 6"):
        start(config(tmp_path, **{"tags.file": str(tmp_path / "mine.jsonl"), "data.difficulty": "ambiguous"}))


def test_two_jobs_at_once_do_the_work_once(tmp_path: Path, stages: Stages) -> None:
    async def both() -> list[Start]:
        one, two = config(tmp_path), config(tmp_path, **{"run.dir": str(tmp_path / "two")})
        data = load_data(one)
        display = cast(RunDisplay, _Display())
        return list(await asyncio.gather(starting_point(one, data, display), starting_point(two, data, display)))

    found = asyncio.run(both())
    assert stages.ran == ALL
    assert found[0].model == found[1].model


def test_real_posts_do_not_get_miniworlds_tags(tmp_path: Path, stages: Stages) -> None:
    settings = config(tmp_path)
    posts = load_data(settings)
    elsewhere = replace(settings, data=replace(settings.data, root=str(tmp_path)))
    found = asyncio.run(
        starting_point(elsewhere, DataSet(posts.train, posts.held_out, tmp_path, {}), cast(RunDisplay, _Display()))
    )
    assert (found.train, found.weights) == (posts.train, None)
    assert stages.ran == ALL
