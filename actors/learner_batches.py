"""Samples into micro-batches of tensors on the learner's device.

Knows nothing of losses, optimisers or other ranks. Always holds: every image is read and processed once
per session however many samples show it; a micro-batch always has at least one image (a blank one when
no sample has any) and one trained token (a blank one in a dummy), so the model's forward pass has one shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sake_ray.data.collate import ImageGrid, PackedBatch, TrainSample, pack, plan_micro_batches
from sake_ray.types import ImageRef

ImageLoader = Callable[[ImageRef], Any]
"""An image reference → the PIL image the model is shown."""

Plan = list[list[list[int]]]


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Tensors of one micro-batch: what the model takes, and where its N answers belong.

    Attributes:
        inputs: arguments of `PackedModel.forward`.
        samples: indices of the S samples it holds, in order; none in a dummy.
        segment, offset: (N,) sample and place of each trained token.
        shape: (S, T), T the most trained tokens of a sample.
        engine: (S, T) the engine's log-probs, padded with 0.
        advantages: (S, T).
        mask: (S, T) float, 1 where a token is trained; all 0 in a dummy.
    """

    inputs: dict[str, torch.Tensor]
    samples: tuple[int, ...]
    segment: torch.Tensor
    offset: torch.Tensor
    shape: tuple[int, int]
    engine: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """(N,) values of the trained tokens → (S, T), 0 elsewhere; gradients pass through."""
        return values.new_zeros(self.shape).index_put((self.segment, self.offset), values)

    def split(self, values: torch.Tensor) -> dict[int, torch.Tensor]:
        """(N,) values of the trained tokens → sample index → its tokens' values."""
        return {index: values[self.segment == s] for s, index in enumerate(self.samples)}


class BatchBuilder:
    """Plans and builds the micro-batches of one rank."""

    def __init__(
        self,
        *,
        image_processor: Any,
        image_token_id: int,
        load_image: ImageLoader,
        row_tokens: int,
        micro_batch_tokens: int,
        device: str = "cpu",
    ) -> None:
        """Use the model's own image processor on the images that `load_image` gives."""
        self.image_processor = image_processor
        self.image_token_id = image_token_id
        self.load_image = load_image
        self.row_tokens = row_tokens
        self.micro_batch_tokens = micro_batch_tokens
        self.device = device
        self._images: dict[ImageRef, tuple[torch.Tensor, torch.Tensor]] = {}
        self._sessions = 0

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Keep processed images until the outermost session ends."""
        self._sessions += 1
        try:
            yield
        finally:
            self._sessions -= 1
            if not self._sessions:
                self._images.clear()

    def plan(self, samples: Sequence[TrainSample]) -> Plan:
        """Which samples go where; the same for the same lengths."""
        lengths = [len(sample.token_ids) for sample in samples]
        return plan_micro_batches(lengths, self.row_tokens, self.micro_batch_tokens)

    def build(self, samples: Sequence[TrainSample], rows: Sequence[Sequence[int]]) -> MicroBatch:
        """One planned micro-batch as tensors.

        Raises:
            ValueError: a sample's image pads do not match its images.
        """
        grids = {ref: self._grid(ref) for row in rows for i in row for ref in samples[i].images}
        packed = pack(samples, rows, grids, self.image_token_id)
        images = [self._image(ref) for ref in packed.images] or [self._blank_image()]
        return self._tensors(packed, images, tuple(packed.samples.tolist()))

    def dummy(self) -> MicroBatch:
        """A micro-batch that goes through the whole model and adds nothing: for a rank that has run out."""
        two = np.arange(2, dtype=np.int64) + (0 if self.image_token_id > 1 else 2)
        sample = TrainSample("dummy", two, np.array([False, True]), np.zeros(2, dtype=np.float32))
        packed = pack([sample], [[0]], {}, self.image_token_id)
        return self._tensors(packed, [self._blank_image()], ())

    def _tensors(
        self, packed: PackedBatch, images: list[tuple[torch.Tensor, torch.Tensor]], samples: tuple[int, ...]
    ) -> MicroBatch:
        def on_device(array: Any) -> torch.Tensor:
            return torch.from_numpy(array).to(self.device)

        shape = (len(packed.samples), int(packed.offset.max()) + 1)
        segment, offset = on_device(packed.segment), on_device(packed.offset)
        mask = torch.zeros(shape, device=self.device)
        mask[segment, offset] = 1.0 if samples else 0.0
        engine = torch.zeros(shape, device=self.device)
        engine[segment, offset] = on_device(packed.logprobs)
        return MicroBatch(
            inputs={
                "input_ids": on_device(packed.input_ids),
                "position_ids": on_device(packed.position_ids),
                "pixel_values": torch.cat([pixels for pixels, _ in images]).to(self.device),
                "grid_thw": torch.cat([grid for _, grid in images]).to(self.device),
                "image_features": on_device(packed.image_features),
                "rows": on_device(packed.rows),
                "cols": on_device(packed.cols),
                "targets": on_device(packed.targets),
            },
            samples=samples,
            segment=segment,
            offset=offset,
            shape=shape,
            engine=engine,
            advantages=on_device(packed.advantages)[:, None].expand(shape),
            mask=mask,
        )

    def _image(self, ref: ImageRef) -> tuple[torch.Tensor, torch.Tensor]:
        """An image's patches (patches, patch size) and grid (1, 3)."""
        if not self._sessions:
            raise RuntimeError("images are only processed within BatchBuilder.session()")
        if ref not in self._images:
            processed = self.image_processor(images=[self.load_image(ref)], return_tensors="pt")
            self._images[ref] = (processed["pixel_values"], processed["image_grid_thw"])
        return self._images[ref]

    def _grid(self, ref: ImageRef) -> ImageGrid:
        _, height, width = self._image(ref)[1][0].tolist()
        return ImageGrid(height, width, self.image_processor.merge_size)

    def _blank_image(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The smallest image there is: the patches of one token, all zero."""
        merge, size = self.image_processor.merge_size, self.image_processor.patch_size
        values = 3 * self.image_processor.temporal_patch_size * size * size
        return torch.zeros(merge * merge, values), torch.tensor([[1, merge, merge]])
