"""The supervised loss of a packed batch is the one of its sequences taken one at a time, by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.learner import Learner, LearnerSettings, start_process_group
from sake_ray.data.collate import TrainSample
from tests.actors import learner_case as lc
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("sft-loss") / "model")


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    start_process_group(0, 1, "127.0.0.1", lc.free_port())
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def samples(model: Path) -> list[TrainSample]:
    return [*lc.make_samples(model, 9), *lc.make_samples(model, 3, seed=4, images=False)]


def make_learner(model: Path, **changes: int) -> Learner:
    algorithm = dataclasses.replace(lc.ALGORITHM, kl_coef=0.0)
    learner = dataclasses.replace(lc.LEARNER, **changes)  # type: ignore[arg-type]
    return Learner(LearnerSettings(model, learner, algorithm), load_image=lc.picture)


def by_hand(model: Path, samples: list[TrainSample]) -> float:
    """Mean cross-entropy over all trained tokens: plain transformers, one sequence at a time."""
    hf, processor = lc.load_plain(model)
    with torch.no_grad():
        values = [lc.reference_log_probs(hf, sample, processor).double() for sample in samples]
    return -float(torch.cat(values).mean())


def test_the_packed_loss_is_the_unpacked_one_to_a_millionth(model: Path, samples: list[TrainSample]) -> None:
    expected = by_hand(model, samples)
    learner = make_learner(model, row_tokens=320, micro_batch_tokens=960)
    assert any(len(row) > 2 for rows in learner._batches.plan(samples) for row in rows), "nothing was packed"
    assert learner.sft_loss(samples) == pytest.approx(expected, abs=1e-6)
    tokens = [sample.trained_tokens for sample in samples]
    alone = [learner.sft_loss([sample]) for sample in samples]
    assert sum(np.multiply(alone, tokens)) / sum(tokens) == pytest.approx(expected, abs=1e-6)
    # The step reports the loss of before it.
    assert learner.sft_step(samples)["train/loss"] == pytest.approx(expected, abs=1e-6)


def test_measuring_changes_nothing(model: Path, samples: list[TrainSample], tmp_path: Path) -> None:
    learner = make_learner(model)
    learner.sft_step(samples)
    before = learner.full_params()
    first = learner.sft_loss(samples)
    learner.save(tmp_path / "after")
    assert learner.sft_loss(samples) == first
    after = learner.full_params()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert learner.step == 1
    with pytest.raises(ValueError, match="anything to train on"):
        learner.sft_loss([])
