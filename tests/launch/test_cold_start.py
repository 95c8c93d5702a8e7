"""Which cold start a job takes: the cached one, if and only if nothing that it depends on is different.

What would go unseen otherwise: RL that starts from a policy trained on other prompts, pictures or weights; or five
minutes of training anew for a setting that has nothing to do with it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from launch import cold_start
from launch.cold_start import base_model_folder, fingerprint, starting_policy
from launch.datasets import cache_folder
from launch.display import RunDisplay
from sake_ray import prompts
from sake_ray.config import Config, ModelConfig, RunConfig
from sake_ray.config.load import resolve
from sake_ray.data.collate import TrainSample

Settings = dict[str, str]

MATTERS: list[Settings] = [
    {"run.seed": "1"},
    {"sft.lr": "0.002"},
    {"sft.posts": "100"},
    {"world.seed": "1"},
    {"world.train_posts": "600"},
    {"episode.text_searches": "2"},
    {"prompts.set": "full"},
    {"data.min_pixels": "14112"},
    {"data.max_pixels": "28224"},
    {"search.max_chars": "40"},
    {"learner.weight_decay": "0.1"},
    {"learner.max_grad_norm": "0.5"},
    {"sft.frozen": "none"},
    {"sft.search_unknown": "0.9"},
    {"sft.search_known": "0.1"},
    {"model.dtype": "bfloat16", "learner.gpus_per_rank": "1"},
]
DOES_NOT: list[Settings] = [
    {"run.dir": "elsewhere/run"},
    {"eval.split": "test"},
    {"reward.gamma": "0.5"},
    {"algorithm.kl_coef": "0.0"},
    {"trainer.total_steps": "7"},
    {"rollout.group_size": "4"},
    {"rollout.temperature": "0.7"},
    {"learner.lr": "0.5"},
    {"learner.warmup_steps": "3"},
    {"learner.decay_steps": "300"},
    {"data.max_examples": "5"},
]


def config(settings: Settings) -> Config:
    return resolve([f"{key}={value}" for key, value in settings.items()], job="test")


@pytest.mark.parametrize("settings", MATTERS, ids=str)
def test_what_the_result_depends_on_changes_the_fingerprint(settings: Settings) -> None:
    assert fingerprint(config(settings)) != fingerprint(config({}))


@pytest.mark.parametrize("settings", DOES_NOT, ids=str)
def test_what_comes_after_the_cold_start_does_not_change_it(settings: Settings) -> None:
    assert fingerprint(config(settings)) == fingerprint(config({}))


def test_prompts_count_by_their_words_not_by_where_they_lie(tmp_path: Path) -> None:
    shutil.copytree(Path(prompts.__file__).parent / "compact", tmp_path / "mine")
    mine = {"prompts.dir": str(tmp_path / "mine")}
    assert fingerprint(config(mine)) == fingerprint(config({}))
    instruction = tmp_path / "mine" / "gmner_instruction.txt"
    instruction.write_text(instruction.read_text() + "\nBe brief.")
    assert fingerprint(config(mine)) != fingerprint(config({}))


@pytest.mark.parametrize("part", ["model.safetensors", "tokenizer.json"])
def test_another_base_model_is_another_cold_start_but_another_card_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    shutil.copytree(base_model_folder(), tmp_path / "base")
    monkeypatch.setattr(cold_start, "base_model_folder", lambda: tmp_path / "base")
    before = fingerprint(config({}))
    (tmp_path / "base" / "card.json").write_text("{}")
    assert fingerprint(config({})) == before
    (tmp_path / "base" / part).write_bytes(b"something else")
    assert fingerprint(config({})) != before


def start(settings: Config) -> Path:
    return asyncio.run(starting_policy(settings, cast(RunDisplay, None)))


def test_a_model_of_the_users_own_is_taken_as_it_is() -> None:
    assert start(Config(model=ModelConfig(path="/models/qwen"))) == Path("/models/qwen")


def test_a_finished_cold_start_is_taken_again_and_a_folder_without_a_model_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Path] = []

    async def train(_: Config, folder: Path, __: Any) -> None:
        trained.append(folder)
        folder.mkdir(parents=True)  # noqa: ASYNC240
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(cold_start, "cold_start", train)
    one = replace(config({}), run=RunConfig(dir=str(tmp_path / "one")))
    two = replace(one, run=RunConfig(dir=str(tmp_path / "two")))
    other = replace(one, run=replace(one.run, seed=1))
    assert start(one) == start(two)
    assert trained == [start(one)]
    assert start(other) != start(one)
    assert len(trained) == 2
    assert {path.parent for path in trained} == {cache_folder(one)}


class FakeLearner:
    """Counts what it is given; breaks at `breaks_at`."""

    def __init__(self, breaks_at: int = 0) -> None:
        self.breaks_at = breaks_at
        self.settings: list[Config] = []
        self.batches: list[list[str]] = []
        self.running = False

    def make(self, config: Config, model: Path) -> FakeLearner:
        assert model == base_model_folder()
        self.settings.append(config)
        return self

    async def start(self) -> None:
        self.running = True

    async def sft(self, samples: Sequence[TrainSample]) -> dict[str, float]:
        if len(self.batches) + 1 == self.breaks_at:
            raise RuntimeError("out of memory")
        self.batches.append([sample.id for sample in samples])
        return {"train/loss": 1.0 / len(self.batches)}

    async def export(self, folder: Path) -> None:
        (folder / "config.json").write_text("{}")

    def shutdown(self) -> None:
        self.running = False


class Display:
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def cold_start(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        self.steps.append((step, steps))


def small(tmp_path: Path, **settings: str) -> Config:
    world = {"world.train_posts": "12", "world.long_tail": "20", "world.dev_posts": "1", "world.test_posts": "1"}
    sft = {"sft.posts": "8", "sft.epochs": "2", "sft.batch_tokens": "600", "sft.warmup_ratio": "0.5"}
    return config(world | sft | {"run.dir": str(tmp_path / "one")} | settings)


@pytest.mark.integration  # trains a real learner: neither Ray nor vLLM, but seconds
def test_the_policy_learns_every_epochs_demonstrations_then_lies_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, display = FakeLearner(), Display()
    monkeypatch.setattr(cold_start, "make_learner_group", learner.make)
    folder = asyncio.run(starting_policy(small(tmp_path), cast(RunDisplay, display)))
    learnt = [sample for batch in learner.batches for sample in batch]
    assert len(set(learnt)) == 8
    assert sorted(learnt[:8]) == sorted(learnt[8:]) == sorted(set(learnt))
    assert display.steps == [(step, len(learner.batches)) for step in range(1, len(learner.batches) + 1)]
    assert (folder / "config.json").is_file()
    assert not learner.running


def test_supervised_steps_have_settings_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RL's learning rate, temperature and KL are not those of the cold start: one would train too little, the next
    a distribution that greedy evaluation never uses, the last would keep a second model in memory for nothing."""
    learner = FakeLearner()
    monkeypatch.setattr(cold_start, "make_learner_group", learner.make)
    settings = small(
        tmp_path, **{"sft.steps": "4", "sft.epochs": "4", "rollout.temperature": "0.7", "algorithm.kl_coef": "0.1"}
    )
    asyncio.run(starting_policy(settings, cast(RunDisplay, Display())))
    (used,) = learner.settings
    assert len(learner.batches) == 4
    assert (used.learner.lr, used.learner.warmup_steps) == (settings.sft.lr, 2)
    assert (used.rollout.temperature, used.algorithm.kl_coef) == (1.0, 0.0)


def test_a_cold_start_that_breaks_off_leaves_no_policy_and_no_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = FakeLearner(breaks_at=2)
    monkeypatch.setattr(cold_start, "make_learner_group", learner.make)
    settings = small(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(starting_policy(settings, cast(RunDisplay, Display())))
    assert [path.name.partition("-")[0] for path in cache_folder(settings).iterdir()] == ["miniworld"]
    assert not learner.running


def test_of_two_jobs_that_train_the_same_at_once_the_later_takes_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(tmp_path)

    class Overtaken(FakeLearner):
        async def export(self, folder: Path) -> None:
            await super().export(folder)
            other = cache_folder(settings) / f"cold-start-{fingerprint(settings)}"
            other.mkdir()
            (other / "config.json").write_text("of the other job")

    monkeypatch.setattr(cold_start, "make_learner_group", Overtaken().make)
    folder = asyncio.run(starting_policy(settings, cast(RunDisplay, Display())))
    assert (folder / "config.json").read_text() == "of the other job"
    assert len(list(cache_folder(settings).iterdir())) == 2
