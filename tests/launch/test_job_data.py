"""From the configuration to posts: MiniWorld by default, the user's own data set where one is named.

What would go unseen otherwise: a run evaluated on the wrong split, runs that share a cache that is not theirs, a
"never seen" that depends on how many training posts were asked for.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.job_data import cache_folder, load_data, load_miniworld, world_folder
from sake_ray.config import Config, DataConfig, EvalConfig, RunConfig, WorldConfig
from sake_ray.data.problems import DataError

WORLD = WorldConfig(known=12, long_tail=10, unseen=6, train_posts=6, dev_posts=4, test_posts=5)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(run=RunConfig(dir=str(tmp_path / "runs" / "one")), world=WORLD)


def test_without_a_data_set_the_posts_are_miniworlds(config: Config) -> None:
    data = load_data(config)
    assert (len(data.train), len(data.held_out)) == (6, 4)
    assert {post.id.partition("_")[0] for post in data.train} == {"train"}
    assert {entity.text for post in data.train + data.held_out for entity in post.entities} <= set(data.looks)
    on_test = load_data(replace(config, eval=EvalConfig(split="test", max_examples=3)))
    assert [post.id for post in on_test.held_out] == ["test_00000", "test_00001", "test_00002"]
    assert len(load_data(replace(config, data=DataConfig(max_examples=2))).train) == 2


def test_runs_side_by_side_share_a_world_and_other_worlds_lie_beside_it(config: Config, tmp_path: Path) -> None:
    folder = world_folder(config)
    assert folder.parent == cache_folder(config) == tmp_path / "runs" / "cache"
    assert world_folder(replace(config, run=RunConfig(dir=str(tmp_path / "runs" / "two"), seed=9))) == folder
    assert world_folder(replace(config, world=replace(WORLD, seed=1))) != folder
    assert len(list(cache_folder(config).iterdir())) == 2


def row(post: str, *phrases: str, **extra: Any) -> dict[str, Any]:
    entities = [
        {"start": at, "end": at, "phrase": phrase, "entity_type": "PER", "region_box": [], **extra}
        for at, phrase in enumerate(phrases)
    ]
    return {"tokens": list(phrases), "img_id": f"{post}.jpg", "image_size": [10, 10], "gt_entities": entities}


def write(root: Path, **splits: list[dict[str, Any]]) -> DataConfig:
    root.mkdir()
    for split, rows in splits.items():
        (root / f"{split}.json").write_text(json.dumps(rows))
    return DataConfig(root=str(root), images="standin")


def test_seen_in_training_is_asked_of_the_whole_training_split(config: Config, tmp_path: Path) -> None:
    """`data.max_examples` makes a run short; it does not make its held-out entities new."""
    data = write(tmp_path / "own", train=[row("1", "Ada"), row("2", "Eve")], dev=[row("3", "eve", "Bob")])
    own = load_data(replace(config, data=replace(data, max_examples=1)))
    assert [post.id for post in own.train] == ["1"]
    assert [(e.text, e.seen) for e in own.held_out[0].entities] == [("eve", True), ("Bob", False)]
    assert (own.root, own.looks) == (tmp_path / "own", {})


def test_the_cold_start_learns_on_miniworld_whatever_rl_trains_on(config: Config, tmp_path: Path) -> None:
    data = write(tmp_path / "own", train=[row("1", "Ada")], dev=[row("3", "Eve")])
    assert load_miniworld(replace(config, data=data)).train == load_data(config).train


def test_a_bad_row_stops_the_job_or_is_left_out_and_told(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = row("2", "Eve", difficulty="hard")
    data = write(tmp_path / "own", train=[row("1", "Ada"), bad], dev=[row("3", "Eve")])
    with pytest.raises(DataError, match="difficulty"):
        load_data(replace(config, data=data))
    with caplog.at_level(logging.WARNING, logger="launch.job_data"):
        own = load_data(replace(config, data=replace(data, on_bad="skip")))
    assert [post.id for post in own.train] == ["1"]
    assert "train.json" in caplog.text and "difficulty" in caplog.text
