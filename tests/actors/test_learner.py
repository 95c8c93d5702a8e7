"""The learner without Ray: packed equals unpacked, a step equals a hand-written one on 1 and 2 ranks.

What would go unseen otherwise: sequences of a row that attend to each other, a normalisation that depends
on how work is split, a rank without images that leaves the others waiting, a resumed run that drifts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors import learner_state
from actors.checkpoint_export import export_checkpoint
from actors.learner import Learner, LearnerSettings, start_process_group
from sake_ray.data.collate import TrainSample
from sake_ray.types import ImageRef
from tests.actors import learner_case as lc
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.integration

NO_KL = dataclasses.replace(lc.ALGORITHM, kl_coef=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("learner") / "model")


@pytest.fixture(scope="module")
def reference(model: Path) -> Path:
    return lc.nudge(model, model.parent / "reference")


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    start_process_group(0, 1, "127.0.0.1", lc.free_port())
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def samples(model: Path) -> list[TrainSample]:
    return lc.make_samples(model, 9)


@pytest.fixture(scope="module", params=[1, 2])
def ran(request: pytest.FixtureRequest, model: Path, reference: Path) -> dict[str, Any]:
    """`run_case` on 1 and on 2 ranks, in processes of their own; a hang ends in gloo's timeout.

    Two ranks recompute activations too: sharded parameters are then gathered again in the backward pass.
    """
    ranks: int = request.param
    out = model.parent / f"ranks-{ranks}"
    learner = dataclasses.replace(lc.LEARNER, gradient_checkpointing=ranks == 2)
    return {**lc.run_ranks(lc.Case(model, reference, out, learner), ranks), "ranks": ranks, "out": out}


def make_learner(model: Path, **changes: Any) -> Learner:
    algorithm = changes.pop("algorithm", NO_KL)
    settings = LearnerSettings(model, dataclasses.replace(lc.LEARNER, **changes), algorithm)
    return Learner(settings, load_image=lc.picture)


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_log_probs_equal_one_sequence_at_a_time_for_policy_and_reference(
    model: Path, reference: Path, samples: list[TrainSample], temperature: float
) -> None:
    mixed = [*samples, *lc.make_samples(model, 3, seed=4, images=False)]
    settings = LearnerSettings(model, lc.LEARNER, lc.ALGORITHM, temperature=temperature, reference=reference)
    learner = Learner(settings, load_image=lc.picture)
    assert any(len(row) > 1 for rows in learner._batches.plan(mixed) for row in rows), "nothing was packed"
    for folder, is_reference in ((model, False), (reference, True)):
        hf, processor = lc.load_plain(folder)
        for sample, found in zip(mixed, learner.log_probs(mixed, reference=is_reference), strict=True):
            with torch.no_grad():
                expected = lc.reference_log_probs(hf, sample, processor, temperature).numpy()
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_banned_ids_are_the_tokenizers_own(model: Path) -> None:
    assert sorted(make_learner(model).model.banned.tolist()) == lc.BANNED


def test_the_gradient_equals_the_hand_written_one(ran: dict[str, Any], model: Path, reference: Path) -> None:
    near, olds = lc.with_policies_logprobs(model, lc.make_samples(model, 9))
    expected = lc.reference_gradient(model, reference, near, olds)
    assert max(float(g.abs().max()) for g in expected.values()) > 0.05, "the case tests nothing"
    assert largest_difference(ran["gradient"], expected) < 1e-6


def test_a_rank_without_images_or_micro_batches_neither_hangs_nor_changes_the_gradient(
    ran: dict[str, Any], model: Path, reference: Path
) -> None:
    near, olds = lc.with_policies_logprobs(model, lc.make_samples(model, 9))
    if ran["ranks"] == 2:
        text, text_olds = lc.with_policies_logprobs(model, lc.make_samples(model, 1, seed=8, images=False))
        near, olds = near + text, olds + text_olds
    assert largest_difference(ran["lopsided"], lc.reference_gradient(model, reference, near, olds)) < 1e-6


def test_minibatches_of_uneven_shares_step_as_one_rank_does_with_all_of_them(
    ran: dict[str, Any], model: Path, reference: Path
) -> None:
    """Each minibatch is normalised over the ranks, also where one of them has nothing for it."""
    near, _ = lc.with_policies_logprobs(model, lc.make_samples(model, 9))
    learner = lc.Case(model, reference, ran["out"]).make_minibatch_learner()
    before = learner.full_params()
    metrics = learner.update(lc.minibatch_shares(near, 1)[0])
    assert learner.step == 2
    found = ran["metrics"]["minibatches"]
    for name in ("tokens", "loss", "grad_norm", "clip_fraction", "kl"):
        assert found[f"train/{name}"] == pytest.approx(metrics[f"train/{name}"], abs=1e-5), name
    assert largest_difference(learner.full_params(), before) > 1e-3, "the case tests nothing"
    # Adam makes as large a step of a gradient near 0, whose rounding differs, as of any other: hence not 1e-6.
    assert largest_difference(learner.full_params(), ran["minibatches"]) < 1e-4


def test_a_resumed_step_equals_the_uninterrupted_one_bit_for_bit(ran: dict[str, Any]) -> None:
    assert largest_difference(ran["saved"], ran["loaded"]) == 0
    assert largest_difference(ran["saved"], ran["after"]) > 0
    assert largest_difference(ran["after"], ran["again"]) == 0


def test_threads_add_up_in_one_order_so_that_equal_runs_end_equal(model: Path) -> None:
    many, threads = lc.make_samples(model, 64), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(4):
            learner = make_learner(model, row_tokens=512, micro_batch_tokens=8192)
            learner.update(many)
            learner.update(many)
            found.append(learner.full_params())
    finally:
        torch.set_num_threads(threads)
    assert all(largest_difference(found[0], other) == 0.0 for other in found[1:])


def test_a_checkpoint_loads_on_another_number_of_ranks(ran: dict[str, Any], model: Path, reference: Path) -> None:
    learner = lc.Case(model, reference, ran["out"]).make_learner()
    learner.load(ran["out"] / "checkpoint")
    assert learner.step == 1
    assert largest_difference(learner.full_params(), ran["saved"]) == 0
    # The moments came along: the next step is the same too.
    metrics = learner.update(lc.with_policies_logprobs(model, lc.make_samples(model, 9))[0])
    assert metrics["train/loss"] == pytest.approx(ran["metrics"]["second"]["train/loss"], abs=1e-6)
    assert largest_difference(learner.full_params(), ran["after"]) < 1e-5


def test_chunks_rows_and_checkpointing_do_not_change_the_gradient(model: Path, samples: list[TrainSample]) -> None:
    found = []
    for changes in (
        {"row_tokens": 4096, "micro_batch_tokens": 4096, "logprob_chunk": 4096},
        {"row_tokens": 64, "micro_batch_tokens": 64, "logprob_chunk": 3, "gradient_checkpointing": True},
    ):
        learner = make_learner(model, **changes)
        learner.accumulate_policy(samples)
        found.append(lc.gradients(learner))
    assert largest_difference(*found) < 1e-6


def test_without_old_log_probs_the_data_counts_as_on_policy(model: Path, samples: list[TrainSample]) -> None:
    learner = make_learner(model)
    learner.accumulate_policy(samples)
    implicit = lc.gradients(learner)
    learner.accumulate_policy(samples, learner.log_probs(samples))
    assert largest_difference(implicit, lc.gradients(learner)) < 1e-6


def test_minibatches_are_optimiser_steps_and_only_later_ones_clip(model: Path, samples: list[TrainSample]) -> None:
    learner = make_learner(model, minibatches=3, lr=0.02)
    metrics = learner.update(samples)
    assert learner.step == 3
    assert metrics["train/tokens"] == sum(sample.trained_tokens for sample in samples)
    assert metrics["train/clip_fraction"] > 0
    assert make_learner(model, lr=0.02).update(samples)["train/clip_fraction"] == 0


def test_a_step_with_fewer_samples_than_minibatches_takes_fewer(model: Path, samples: list[TrainSample]) -> None:
    learner = make_learner(model, minibatches=3)
    metrics = learner.update(samples[:2])
    assert learner.step == 2
    assert metrics["train/tokens"] == sum(sample.trained_tokens for sample in samples[:2])
    with pytest.raises(ValueError, match="anything to train on"):
        learner.update([])


def test_a_checkpoint_written_after_log_probs_holds_the_optimisers_moments(
    model: Path, samples: list[TrainSample], tmp_path: Path
) -> None:
    learner = make_learner(model, lr=4e-3)
    learner.update(samples)
    learner.log_probs(samples)
    learner.save(tmp_path / "checkpoint")
    again = make_learner(model, lr=4e-3)
    again.load(tmp_path / "checkpoint")
    learner.update(samples)
    again.update(samples)
    assert largest_difference(learner.full_params(), again.full_params()) == 0


def test_supervised_loss_is_the_mean_over_trained_tokens_and_falls(model: Path, samples: list[TrainSample]) -> None:
    learner = make_learner(model, lr=3e-3)
    expected = -np.concatenate(learner.log_probs(samples)).mean()
    losses = [learner.sft_step(samples)["train/loss"] for _ in range(8)]
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0] - 0.2


def test_a_broken_gradient_stops_and_changes_nothing(model: Path, samples: list[TrainSample]) -> None:
    learner = make_learner(model)
    before = learner.full_params()
    learner.accumulate_policy(samples)
    next(learner.model.parameters()).grad.mul_(float("nan"))
    with pytest.raises(FloatingPointError, match="nothing was updated"):
        learner.apply_gradients()
    assert largest_difference(before, learner.full_params()) == 0


def test_frozen_parts_stay_and_a_checkpoint_of_such_a_learner_loads(
    model: Path, samples: list[TrainSample], tmp_path: Path
) -> None:
    learner = make_learner(model, lr=4e-3, frozen="embeddings+vision")
    before = learner.full_params()
    learner.update(samples)
    after = learner.full_params()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and not any("embed_tokens" in name or "visual" in name for name in changed)
    learner.save(tmp_path / "checkpoint")
    again = make_learner(model, lr=4e-3, frozen="embeddings+vision")
    again.load(tmp_path / "checkpoint")
    learner.update(samples)
    again.update(samples)
    assert largest_difference(learner.full_params(), again.full_params()) == 0


def test_the_learning_rate_warms_up_and_then_stays_or_falls(model: Path, samples: list[TrainSample]) -> None:
    learner = make_learner(model, lr=4e-3, warmup_steps=4)
    rates = [learner.update(samples[:1])["train/lr"] for _ in range(6)]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 4e-3, 4e-3])
    learner = make_learner(model, lr=4e-3, warmup_steps=1, decay_steps=4)
    assert [learner.update(samples[:1])["train/lr"] for _ in range(5)] == pytest.approx([4e-3, 3e-3, 2e-3, 1e-3, 0])


def test_an_exported_folder_loads_and_holds_the_tied_head_once(
    model: Path, samples: list[TrainSample], tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoProcessor

    learner = make_learner(model)
    learner.update(samples)
    learner.export(tmp_path / "export")
    params = learner.full_params()
    assert "lm_head.weight" not in params
    hf, _ = lc.load_plain(tmp_path / "export")
    assert largest_difference(params, {name: p.detach() for name, p in hf.named_parameters()}) == 0
    learner.save(tmp_path / "checkpoint")
    assert export_checkpoint(tmp_path / "checkpoint", model, tmp_path / "of_checkpoint") == 1
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "of_checkpoint" / name).read_bytes() == (tmp_path / "export" / name).read_bytes()
    with pytest.raises(ValueError, match="is no learner's checkpoint"):
        export_checkpoint(tmp_path / "export", model, tmp_path / "nothing")
    learner.export(tmp_path / "half", "bfloat16")
    assert AutoConfig.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    assert len(AutoProcessor.from_pretrained(tmp_path / "export").tokenizer) == hf.config.text_config.vocab_size


def test_an_export_that_is_cut_off_leaves_what_was_there_and_the_next_one_replaces_it(
    model: Path, samples: list[TrainSample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    learner = make_learner(model)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(learner_state, "_record_dtype", killed)  # the weights are written, not all the rest
        learner.export(tmp_path / "policy")
    assert not (tmp_path / "policy").exists()
    learner.export(tmp_path / "policy")
    (tmp_path / "policy" / "of the first").touch()
    learner.update(samples)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(learner_state, "_record_dtype", killed)
        learner.export(tmp_path / "policy")
    assert (tmp_path / "policy" / "of the first").exists()
    learner.export(tmp_path / "policy")
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert not (tmp_path / "policy" / "of the first").exists()
    hf, _ = lc.load_plain(tmp_path / "policy")
    assert largest_difference(learner.full_params(), {name: p.detach() for name, p in hf.named_parameters()}) == 0


def test_an_image_is_read_once_however_often_it_is_shown(model: Path, samples: list[TrainSample]) -> None:
    seen: list[ImageRef] = []

    def counted(ref: ImageRef) -> Image.Image:
        seen.append(ref)
        return lc.picture(ref)

    settings = LearnerSettings(model, dataclasses.replace(lc.LEARNER, minibatches=2), NO_KL)
    Learner(settings, load_image=counted).update(samples)
    assert len(seen) == len({ref for sample in samples for ref in sample.images})


def test_what_cannot_be_loaded_is_refused(model: Path, tmp_path: Path) -> None:
    learner = make_learner(model)
    with pytest.raises(FileNotFoundError, match="no learner checkpoint"):
        learner.load(tmp_path)
    learner.save(tmp_path / "checkpoint")
    next((tmp_path / "checkpoint" / "shards").iterdir()).unlink()
    with pytest.raises(ValueError, match="does not fit this model"):
        learner.load(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="bfloat16 needs a GPU"):
        Learner(dataclasses.replace(learner.settings, dtype="bfloat16"))
    with pytest.raises(ValueError, match="no reference policy"):
        learner.log_probs([], reference=True)
