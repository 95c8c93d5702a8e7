"""Lets a CUDA build of torchvision be imported beside a CPU-only torch; copied into site-packages by `setup_env.py`.

Package indexes often serve torchvision only as a CUDA build. Its compiled half cannot load beside a CPU torch, so the
schemas of `torchvision::nms` and `torchvision::qnms` are never defined and `import torchvision` (which transformers
and vLLM need for image processors) stops. Defining the two schemas first is enough: nothing here calls the ops.

Knows nothing of the project. Always holds: it costs one comparison per import until torchvision is first imported,
acts once, and only where torch has no CUDA. A `.pth` line loads it in every process, vLLM's children included.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_keep_alive: list[object] = []  # torch drops a library's schemas when its Python object is collected


class _BeforeTorchvision:
    """A meta-path finder that finds nothing: it only runs code just before torchvision is looked up."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Define the missing schemas when `name` is torchvision; always leaves the finding to others."""
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        import torch

        if torch.version.cuda is None:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for schema in _SCHEMAS:
                library.define(schema)
            _keep_alive.append(library)
        return None


def install() -> None:
    """Put the finder in front of the others, once: `site` may read a `.pth` file twice."""
    if any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _BeforeTorchvision())  # type: ignore[arg-type]
