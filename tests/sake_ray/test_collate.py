"""Packing: nothing lost, nothing twice, positions as transformers computes them, rows within their bounds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.data.collate import (
    ImageGrid,
    TrainSample,
    balanced_shards,
    mrope_positions,
    pack,
    plan_micro_batches,
)
from sake_ray.trajectory import Trajectory
from sake_ray.types import Example, ImageRef

PAD = 7
GRIDS = {ImageRef(f"picture-{i}", 1, 1): grid for i, grid in enumerate((ImageGrid(2, 4, 2), ImageGrid(6, 4, 2)))}
lengths = st.lists(st.integers(1, 40), max_size=30)


@st.composite
def train_samples(draw: st.DrawFn) -> TrainSample:
    """Context and trained runs in turn, with images between text tokens."""
    ids: list[int] = [1]
    mask: list[bool] = [False]
    images: list[ImageRef] = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            ref = draw(st.sampled_from(list(GRIDS)))
            images.append(ref)
            ids += [8, *[PAD] * GRIDS[ref].tokens, 9]
            mask += [False] * (GRIDS[ref].tokens + 2)
        completion = draw(st.lists(st.integers(10, 99), min_size=1, max_size=6))
        ids += completion
        mask += [True] * len(completion)
    logprobs = np.where(mask, -np.arange(len(ids), dtype=np.float32), 0).astype(np.float32)
    return TrainSample("s", np.array(ids), np.array(mask), logprobs, draw(st.floats(-3, 3)), tuple(images))


@given(lengths, st.integers(1, 64), st.integers(1, 128))
def test_every_sample_lies_in_one_row_and_rows_keep_their_bounds(sizes: list[int], row: int, micro: int) -> None:
    plan = plan_micro_batches(sizes, row, micro)
    assert sorted(i for batch in plan for r in batch for i in r) == list(range(len(sizes)))
    for batch in plan:
        widths = [sum(sizes[i] for i in r) for r in batch]
        assert all(width <= row or len(r) == 1 for width, r in zip(widths, batch, strict=True))
        assert len(batch) == 1 or len(batch) * max(widths) <= micro
    assert plan == plan_micro_batches(sizes, row, micro)


@given(st.lists(train_samples(), min_size=1, max_size=8), st.integers(10, 60))
def test_packing_keeps_every_trained_token_with_its_place_and_log_prob(samples: list[TrainSample], row: int) -> None:
    rows = [r for batch in plan_micro_batches([len(s.token_ids) for s in samples], row, 10**6) for r in batch]
    packed = pack(samples, rows, GRIDS, PAD)
    assert sorted(packed.samples.tolist()) == list(range(len(samples)))
    for place, index in enumerate(packed.samples):
        sample, here = samples[index], packed.segment == place
        np.testing.assert_array_equal(packed.targets[here], sample.token_ids[sample.loss_mask])
        np.testing.assert_array_equal(packed.logprobs[here], sample.logprobs[sample.loss_mask])
        np.testing.assert_array_equal(packed.offset[here], np.arange(sample.trained_tokens))
        assert packed.advantages[place] == np.float32(sample.advantage)
    # The target is the token after the place it is read from, in the same sequence.
    np.testing.assert_array_equal(packed.input_ids[packed.rows, packed.cols + 1], packed.targets)
    text = packed.position_ids[0]
    np.testing.assert_array_equal(text[packed.rows, packed.cols + 1], text[packed.rows, packed.cols] + 1)


@given(st.lists(train_samples(), min_size=1, max_size=8))
def test_every_pad_takes_a_feature_of_its_own_image_in_order(samples: list[TrainSample]) -> None:
    packed = pack(samples, [list(range(len(samples)))], GRIDS, PAD)
    assert len(packed.image_features) == (packed.input_ids == PAD).sum()
    assert len(set(packed.images)) == len(packed.images)
    starts = dict(zip(packed.images, np.cumsum([0, *(GRIDS[i].tokens for i in packed.images)]), strict=False))
    shown = [ref for sample in samples for ref in sample.images]
    expected = [starts[ref] + k for ref in shown for k in range(GRIDS[ref].tokens)]
    assert packed.image_features.tolist() == expected


@pytest.mark.integration
def test_packed_sequences_are_separated_as_transformers_separates_them() -> None:
    import torch
    from transformers.masking_utils import find_packed_sequence_indices

    sample = TrainSample("s", np.array([1, 10, 11]), np.array([False, True, True]), np.zeros(3, dtype=np.float32))
    packed = pack([sample] * 3, [[0, 1], [2]], {}, PAD)
    found = find_packed_sequence_indices(torch.from_numpy(packed.position_ids[0]))
    assert found is not None
    # Row 1 is padded: every padding token is a sequence of its own.
    assert found.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 2, 3]]


def test_image_positions_are_those_of_qwen() -> None:
    # 3 text tokens, an image of 3 x 2 merged patches, 2 text tokens.
    ids = np.array([1, 1, 8, *[PAD] * 6, 9, 1])
    found = mrope_positions(ids, [ImageGrid(6, 4, 2)], PAD)
    assert found.tolist() == [
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7],
        [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 7],
        [0, 1, 2, 3, 4, 3, 4, 3, 4, 6, 7],
    ]
    assert mrope_positions(np.array([1, 2, 3]), [], PAD).tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize("pads", [5, 7])
def test_pads_that_do_not_match_the_images_are_refused(pads: int) -> None:
    with pytest.raises(ValueError, match="pads"):
        mrope_positions(np.array([1, *[PAD] * pads, 1]), [ImageGrid(6, 4, 2)], PAD, "t-1")


@given(lengths, st.integers(1, 5))
def test_shards_hold_everything_once_and_are_balanced(costs: list[int], shards: int) -> None:
    parts = balanced_shards(costs, shards)
    assert len(parts) == shards
    assert sorted(i for part in parts for i in part) == list(range(len(costs)))
    totals = [sum(costs[i] for i in part) for part in parts]
    assert max(totals) - min(totals) <= max(costs, default=0)


def test_samples_that_cannot_be_trained_are_refused() -> None:
    good = TrainSample("s", np.array([1, 10]), np.array([False, True]), np.zeros(2, dtype=np.float32))
    for changes, message in (
        ({"logprobs": np.zeros(3, dtype=np.float32)}, "one length"),
        ({"loss_mask": np.array([False, False])}, "nothing to train"),
        ({"loss_mask": np.array([True, False])}, "first token"),
        ({"logprobs": np.array([0, np.nan], dtype=np.float32)}, "not finite"),
        ({"advantage": float("inf")}, "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **changes)
    with pytest.raises(ValueError, match="no advantage"):
        TrainSample.of(Trajectory("t", Example("p", "", ImageRef("", 1, 1), ())))
