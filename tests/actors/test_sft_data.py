"""What a supervised run holds out and depends on: the same for the same seed, and different when it matters.

What would go unseen otherwise: a policy measured on posts it was trained on, or a resumed run that goes on with other
data or another learning rate.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.sft_data import Inputs, differences, sft_inputs, split_posts
from sake_ray.coldstart.teaching import Demonstration, TaughtTurn
from sake_ray.config.load import resolve
from sake_ray.prompts import load_prompts
from sake_ray.types import Example, ImageRef, Observation, QueryResult, SearchKind


def demonstration(post: str, picture: str = "/data/images/a.png", answer: str = "<answer>[]</answer>") -> Demonstration:
    found = Observation(SearchKind.TEXT, (QueryResult("Ada", "success", "a singer"),), latency_s=0.5)
    turns = (TaughtTurn('<text_search>["Ada"]</text_search>', found), TaughtTurn(answer))
    return Demonstration(Example(post, "Ada", ImageRef(picture, 8, 8), ()), (), turns)


def ids(demonstrations: list[Demonstration]) -> list[str]:
    return [demonstration.example.id for demonstration in demonstrations]


def test_held_out_posts_are_a_seeded_share_and_never_trained() -> None:
    taught = [demonstration(f"p{n // 2}") for n in range(40)]  # two trajectories a post
    train, held_out = split_posts(taught, 0.25, seed=3)
    assert len(held_out) == 10
    assert not set(ids(train)) & set(ids(held_out))
    assert len(train) + len(held_out) == 40
    assert split_posts(taught, 0.25, seed=3) == (train, held_out)
    assert split_posts(taught, 0.25, seed=4) != (train, held_out)
    assert train == [d for d in taught if d in train], "the order is the data's"


@pytest.mark.parametrize(
    ("posts", "share", "expected"), [(1, 0.5, 0), (2, 0.01, 1), (100, 0.0, 0), (100, 0.05, 5), (3, 0.5, 2), (0, 0.5, 0)]
)
def test_how_many_are_held_out(posts: int, share: float, expected: int) -> None:
    train, held_out = split_posts([demonstration(f"p{n}") for n in range(posts)], share, seed=0)
    assert len(held_out) == expected
    assert len(train) == posts - expected


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name in ("model.safetensors", "tokenizer.json", "card.json"):
        (tmp_path / name).write_text(name)
    return tmp_path


def inputs(model: Path, *words: str, taught: list[Demonstration] | None = None) -> Inputs:
    config = resolve(words, job="sft_secot")
    prompts = load_prompts(config.data.task, config.prompts.set, config.prompts.dir)
    return sft_inputs(config, model, prompts, taught or [demonstration("p1")])


@pytest.mark.parametrize(
    "word",
    [
        *("run.seed=1", "sft.lr=0.5", "sft.steps=7", "sft.epochs=9", "sft.batch_tokens=99", "sft.frozen=none"),
        *("sft.held_out=0.3", "sft.warmup_ratio=0.5", "episode.max_tokens=999", "data.max_pixels=28224"),
        *("search.max_chars=40", "learner.weight_decay=0.1", "learner.max_grad_norm=0.5", "prompts.set=full"),
    ],
)
def test_what_changes_the_policy_changes_the_inputs(model: Path, word: str) -> None:
    changed = differences(inputs(model), inputs(model, word))
    assert len(changed) == 1
    assert changed[0].split(" ")[0] == word.partition("=")[0].replace("prompts.set", "prompts")


@pytest.mark.parametrize(
    "word",
    [
        *("run.dir=elsewhere", "sft.eval_every=1", "sft.checkpoint_every=1", "sft.max_failures=9", "learner.ranks=2"),
        *("learner.row_tokens=99", "learner.lr=0.5", "rollout.temperature=0.3", "algorithm.kl_coef=0.5"),
        *("trainer.keep_checkpoints=9", "tracking.backends="),
    ],
)
def test_how_the_work_is_done_does_not(model: Path, word: str) -> None:
    assert differences(inputs(model), inputs(model, word)) == []


def test_files_count_by_content_and_demonstrations_by_what_is_trained(model: Path) -> None:
    before = inputs(model)
    (model / "card.json").write_text("another card")
    moved = demonstration("p1", picture="/elsewhere/images/a.png")
    first, last = moved.turns
    assert first.observation is not None
    slower = replace(first, observation=replace(first.observation, latency_s=9.0))
    same = replace(moved, turns=(slower, last), teacher="another", attempts=3)
    assert differences(before, inputs(model, taught=[same])) == []
    assert differences(before, inputs(model, taught=[demonstration("p1", answer="<answer>[ ]</answer>")])) == [
        "demonstrations"
    ]
    (model / "model.safetensors").write_text("other weights")
    assert differences(before, inputs(model)) == ["model"]


def test_differences_say_then_and_now(model: Path) -> None:
    assert differences(inputs(model, "sft.lr=0.5"), inputs(model, "sft.lr=0.25")) == ["sft.lr (0.5 then, 0.25 now)"]
