"""The engine's side of weight sync: runs inside vLLM's worker process, never in ours.

Knows nothing of Ray or the learner. Importing this module (vLLM does so for `worker_extension_cls`)
registers the shared-memory backend and ties the process to its parent. Always holds: an update in which
a parameter of the model did not come is an error, not a model of two versions (vLLM itself only warns).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from actors.parent_watch import die_with_parent
from actors.weight_sync import ShmWeightSync

EXTENSION = f"{__name__}.WeightExtension"


class WeightExtension:
    """Names this module to vLLM's worker, which imports it; adds no method."""


@dataclass
class ShmInitInfo(WeightTransferInitInfo):
    """Nothing is agreed in advance."""


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):
    """One bucket: a file and where each tensor lies in it (byte offsets, torch dtype names)."""

    path: str
    names: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse lists of different lengths."""
        if not len(self.names) == len(self.dtypes) == len(self.shapes) == len(self.offsets):
            raise ValueError(
                f"weight bucket {self.path}: {len(self.names)} names, {len(self.dtypes)} dtypes, "
                f"{len(self.shapes)} shapes, {len(self.offsets)} offsets"
            )


class ShmWeightTransferEngine(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):
    """Loads mapped tensors through vLLM's layerwise reload, which repacks each layer as it completes."""

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        """Note which parameters have to come, and open the model for loading."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._expected = {name for name, _ in self.model.named_parameters()}
        self._loaded: set[str] = set()
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        """Map one bucket and load it. Layers keep views until they are whole; the mapping lives as long."""
        size = os.path.getsize(update_info.path)
        mapped = torch.from_file(update_info.path, shared=False, size=size, dtype=torch.uint8)
        loaded = self.model.load_weights(
            (name, _view(mapped, dtype, shape, offset))
            for name, dtype, shape, offset in zip(
                update_info.names, update_info.dtypes, update_info.shapes, update_info.offsets, strict=True
            )
        )
        if loaded is None:
            raise RuntimeError(f"{type(self.model).__name__} does not tell which weights it loaded; cannot sync it")
        self._loaded |= loaded

    def finish_weight_update(self) -> None:
        """Check that everything came, and let the layers take the weights over.

        Raises:
            RuntimeError: parameters are missing; the model is unusable and must be rebuilt.
        """
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        missing = sorted(self._expected - self._loaded)
        if missing:
            raise RuntimeError(
                f"weight update lacks {len(missing)} of {len(self._expected)} parameters: {', '.join(missing[:5])}"
            )
        finalize_layerwise_reload(self.model, self.model_config)
        _repack_lm_heads(self.model)

    def shutdown(self) -> None:
        """Nothing is held."""


def _view(mapped: torch.Tensor, dtype_name: str, shape: list[int], offset: int) -> torch.Tensor:
    """The tensor at byte `offset` of the mapped (bytes,) buffer."""
    dtype = getattr(torch, dtype_name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"weight bucket names the unknown dtype {dtype_name!r}")
    return mapped[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)


def _repack_lm_heads(model: torch.nn.Module) -> None:
    """Rebuild each head's packed copy (CPU only).

    A head tied to the embedding owns no parameter of its own, so a reload never reaches it and its
    packed matrix would silently stay the old one.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


if ShmWeightSync.backend not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(ShmWeightSync.backend, ShmWeightTransferEngine)

die_with_parent()
