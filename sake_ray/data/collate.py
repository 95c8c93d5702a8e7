"""Trajectories into packed training batches, as numpy arrays.

Knows nothing of torch, models or files: an image is only the grid of patches it became, and a batch
says where every trained token lies. Always holds: a sample lies whole in one row of one micro-batch;
samples of a row are told apart by text positions that restart at 0, and a padding token is a sample of
its own; the log-prob of a trained token is read one position before it, so a first token is never
trained; every image-pad token has exactly one image feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sake_ray.trajectory import Trajectory
from sake_ray.types import ImageRef

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TrainSample:
    """One sequence to train on. T tokens; all arrays have shape (T,).

    Attributes:
        id: for messages only.
        token_ids: expanded ids (one image pad a merged patch), int64.
        loss_mask: which tokens the policy sampled (or, in supervised training, should write), bool.
        logprobs: the engine's log-probs of the sampled tokens, 0 elsewhere, float32.
        advantage: of the whole sequence; not used in supervised training.
        images: the images its pads stand for, in order.
    """

    id: str
    token_ids: IntArray
    loss_mask: npt.NDArray[np.bool_]
    logprobs: FloatArray
    advantage: float = 0.0
    images: tuple[ImageRef, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a sample that cannot be trained on.

        Raises:
            ValueError: arrays of different lengths, nothing or the first token to train, a number that is not finite.
        """
        n = len(self.token_ids)
        if not (n == len(self.loss_mask) == len(self.logprobs)):
            raise ValueError(
                f"sample {self.id}: {n} token ids, {len(self.loss_mask)} loss-mask entries and "
                f"{len(self.logprobs)} log-probs; the three must have one length"
            )
        if not self.loss_mask.any():
            raise ValueError(f"sample {self.id}: no token has loss mask 1, so there is nothing to train")
        if self.loss_mask[0]:
            raise ValueError(
                f"sample {self.id}: its first token has loss mask 1, but nothing precedes it to predict it"
            )
        if not np.isfinite(self.logprobs[self.loss_mask]).all() or not np.isfinite(self.advantage):
            raise ValueError(f"sample {self.id}: a log-prob or the advantage is not finite")

    @property
    def trained_tokens(self) -> int:
        """How many tokens are trained."""
        return int(self.loss_mask.sum())

    @classmethod
    def of(cls, trajectory: Trajectory) -> TrainSample:
        """The sample of a trajectory that has its advantage.

        Raises:
            ValueError: it has no advantage, or cannot be trained on.
        """
        if trajectory.advantage is None:
            raise ValueError(f"trajectory {trajectory.id} has no advantage; compute its group's advantages first")
        return cls(
            id=trajectory.id,
            token_ids=np.asarray(trajectory.token_ids, dtype=np.int64),
            loss_mask=np.asarray(trajectory.loss_mask, dtype=np.bool_),
            logprobs=np.asarray(trajectory.logprobs, dtype=np.float32),
            advantage=trajectory.advantage,
            images=tuple(trajectory.images),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """One micro-batch: S samples in R rows of L positions, N trained tokens, U different images.

    Attributes:
        samples: (S,) indices into the list that was packed, in the order samples lie in the rows.
        input_ids: (R, L).
        position_ids: (4, R, L): the text position that separates samples, then mrope's time, height, width.
        rows, cols: (N,) where each trained token's log-prob is read (one before the token).
        targets: (N,) the trained tokens.
        segment: (N,) which of the S samples a trained token belongs to, ascending.
        offset: (N,) its place among that sample's trained tokens.
        logprobs: (N,) the engine's log-probs.
        advantages: (S,).
        images: (U,) the different images, first seen first.
        image_features: (pads,) for each image pad in row-major order, the row of its feature in the
            features of `images` laid one after the other.
    """

    samples: IntArray
    input_ids: IntArray
    position_ids: IntArray
    rows: IntArray
    cols: IntArray
    targets: IntArray
    segment: IntArray
    offset: IntArray
    logprobs: FloatArray
    advantages: FloatArray
    images: tuple[ImageRef, ...]
    image_features: IntArray


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """How a model cuts an image: patches high and wide, and how many patches a side merge into one token."""

    height: int
    width: int
    merge: int

    @property
    def tokens(self) -> int:
        """Image pads the image stands for."""
        return (self.height // self.merge) * (self.width // self.merge)


def mrope_positions(
    token_ids: IntArray, grids: Sequence[ImageGrid], image_token_id: int, sample_id: str = ""
) -> IntArray:
    """Multimodal rotary positions of one sequence, (3, T): time, height, width.

    Text counts on in all three planes. An image that starts at position p has time p everywhere,
    height p + row, width p + column, and the text after it goes on at p + max(rows, columns)
    (Qwen2.5-VL's rule for still images).

    Raises:
        ValueError: the image pads are not exactly those of `grids`, in order.
    """
    total = len(token_ids)
    positions = np.empty((3, total), dtype=np.int64)
    pads = token_ids == image_token_id
    at = 0  # next token
    position = 0  # its position
    for number, grid in enumerate(grids):
        run = np.flatnonzero(pads[at:])
        start = at + int(run[0]) if len(run) else total
        end = start + grid.tokens
        if end > total or not pads[start:end].all():
            raise ValueError(
                f"sample {sample_id}: image {number} needs {grid.tokens} pads in a row, the ids hold "
                f"{int(pads[start:end].sum())} there ({int(pads.sum())} in all, {len(grids)} images)"
            )
        positions[:, at:start] = np.arange(position, position + start - at)
        position += start - at
        rows, columns = grid.height // grid.merge, grid.width // grid.merge
        positions[0, start:end] = position
        positions[1, start:end] = position + np.repeat(np.arange(rows), columns)
        positions[2, start:end] = position + np.tile(np.arange(columns), rows)
        position += max(rows, columns)
        at = end
    if pads[at:].any():
        raise ValueError(
            f"sample {sample_id}: {int(pads[at:].sum())} image pads are left over after its {len(grids)} images"
        )
    positions[:, at:] = np.arange(position, position + total - at)
    return positions


def plan_micro_batches(lengths: Sequence[int], row_tokens: int, micro_batch_tokens: int) -> list[list[list[int]]]:
    """Which samples go into which row of which micro-batch: indices, as micro-batch → row → samples.

    Rows take up to `row_tokens` (attention costs the square of a row), a longer sample has a row of its
    own; a micro-batch takes rows while rows x longest row <= `micro_batch_tokens`, and at least one.
    Longest first, ties by index, so the plan depends on the lengths only.
    """
    if row_tokens < 1 or micro_batch_tokens < 1:
        raise ValueError(f"row_tokens={row_tokens} and micro_batch_tokens={micro_batch_tokens} must be at least 1")
    rows: list[list[int]] = []
    used: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = next((r for r, total in enumerate(used) if total + lengths[index] <= row_tokens), None)
        if fitting is None:
            rows.append([index])
            used.append(lengths[index])
        else:
            rows[fitting].append(index)
            used[fitting] += lengths[index]
    batches: list[list[list[int]]] = []
    widest = 0
    for row in sorted(range(len(rows)), key=lambda r: (-used[r], r)):
        if batches and (len(batches[-1]) + 1) * widest <= micro_batch_tokens:
            batches[-1].append(rows[row])
        else:
            batches.append([rows[row]])
            widest = used[row]
    return batches


def pack(
    samples: Sequence[TrainSample],
    rows: Sequence[Sequence[int]],
    grids: dict[ImageRef, ImageGrid],
    image_token_id: int,
) -> PackedBatch:
    """Lay the samples of one planned micro-batch side by side.

    Args:
        samples: all samples the plan speaks of.
        rows: the micro-batch's rows, indices into `samples`.
        grids: the patch grid of every image in them.
        image_token_id: the model's image pad.

    Raises:
        ValueError: a sample's image pads do not match its images.
    """
    order = [index for row in rows for index in row]
    length = max(sum(len(samples[i].token_ids) for i in row) for row in rows)
    # Padding must not look like an image: a pad without a feature would shift every later one.
    input_ids = np.full((len(rows), length), 0 if image_token_id else 1, dtype=np.int64)
    position_ids = np.zeros((4, len(rows), length), dtype=np.int64)
    images = {ref: None for i in order for ref in samples[i].images}
    first_feature = dict(zip(images, np.cumsum([0, *(grids[ref].tokens for ref in images)]).tolist(), strict=False))
    where: list[tuple[int, int]] = []  # row and first column of each sample, in order
    features: list[IntArray] = []
    for r, row in enumerate(rows):
        start = 0
        for index in row:
            sample = samples[index]
            end = start + len(sample.token_ids)
            input_ids[r, start:end] = sample.token_ids
            position_ids[0, r, start:end] = np.arange(end - start)
            position_ids[1:, r, start:end] = mrope_positions(
                sample.token_ids, [grids[ref] for ref in sample.images], image_token_id, sample.id
            )
            features.extend(np.arange(grids[ref].tokens) + first_feature[ref] for ref in sample.images)
            where.append((r, start))
            start = end
    trained = [np.flatnonzero(samples[i].loss_mask) for i in order]
    counts = [len(t) for t in trained]
    return PackedBatch(
        samples=np.asarray(order, dtype=np.int64),
        input_ids=input_ids,
        position_ids=position_ids,
        rows=np.repeat(np.asarray([r for r, _ in where], dtype=np.int64), counts),
        cols=np.concatenate([t - 1 + start for t, (_, start) in zip(trained, where, strict=True)]),
        targets=np.concatenate([samples[i].token_ids[t] for i, t in zip(order, trained, strict=True)]),
        segment=np.repeat(np.arange(len(order)), counts),
        offset=np.concatenate([np.arange(n) for n in counts]),
        logprobs=np.concatenate([samples[i].logprobs[t] for i, t in zip(order, trained, strict=True)]),
        advantages=np.asarray([samples[i].advantage for i in order], dtype=np.float32),
        images=tuple(images),
        image_features=np.concatenate([np.zeros(0, dtype=np.int64), *features]),
    )


def balanced_shards(costs: Sequence[int], shards: int) -> list[list[int]]:
    """Split indices into `shards` lists of about equal cost: the dearest first, each to the cheapest shard.

    The largest shard costs at most 4/3 of the best possible. With fewer items than shards some are empty.
    Each list is ascending.
    """
    if shards < 1:
        raise ValueError(f"cannot split over {shards} shards; at least 1 is needed")
    totals = [0] * shards
    parts: list[list[int]] = [[] for _ in range(shards)]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        cheapest = min(range(shards), key=lambda s: (totals[s], s))
        parts[cheapest].append(index)
        totals[cheapest] += costs[index]
    return [sorted(part) for part in parts]
