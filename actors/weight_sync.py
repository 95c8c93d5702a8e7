"""How new weights reach an engine: one interface, and the transport that works on one machine or many.

Knows nothing of vLLM or Ray: a transport drives the three calls of `WeightControl` and is handed the
parameters already local (Ray brings them to the node as one object, shared by all workers there).
Always holds: the shared-memory file is private to the user, exists only while one bucket is being
loaded, and is removed whatever fails; a file is taken for left behind only where its process would be seen;
a transport that does not exist here is refused by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ALIGNMENT = 64
"""Bytes a tensor's start is aligned to in the file: a cache line, and enough for every dtype's view."""

FILE_PREFIX = "sake_ray-weights-"
DEFAULT_BUCKET_BYTES = 1 << 30

Params = Mapping[str, Any]
"""Parameter name in Hugging Face form → numpy array or CPU torch tensor, as `full_params` gives them."""


class WeightSyncError(RuntimeError):
    """Weights could not be handed over."""


class WeightControl(Protocol):
    """The engine's side of an update; `VllmEngine` gives these with a deadline on each."""

    async def start_weight_update(self) -> None:
        """Get ready to receive parameters."""
        ...

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one bucket; can be called again until every parameter has come."""
        ...

    async def finish_weight_update(self, weight_version: str) -> None:
        """Put the new weights to use and record their version."""
        ...


class WeightSync(Protocol):
    """A transport of weights from the learner to one engine."""

    @property
    def backend(self) -> str:
        """The name vLLM knows the receiving side by."""
        ...

    @property
    def init_info(self) -> dict[str, Any]:
        """What the receiving side needs once, when the engine has started."""
        ...

    async def push(self, control: WeightControl, params: Params, version: int) -> int:
        """Hand over all of `params`; returns the bytes moved."""
        ...


class ParamSource(Protocol):
    """Where current weights come from: the learner ranks."""

    async def full_params(self) -> Any:
        """All parameters, or a Ray object reference to them (which the driver then never copies)."""
        ...


class WeightReceiver(Protocol):
    """Where they go: the rollout pool."""

    async def update_weights(self, params: Any, version: int) -> Mapping[str, float]:
        """Give every worker `params` as `version`."""
        ...


async def publish(source: ParamSource, receiver: WeightReceiver, version: int) -> dict[str, float]:
    """What `LearnerClient.publish` does: gather the current weights and hand them over as `version`."""
    begin = time.monotonic()
    params = await source.full_params()
    gathered = time.monotonic() - begin
    return {"time/weight_gather_s": gathered, **await receiver.update_weights(params, version)}


@dataclass(frozen=True, slots=True)
class Placed:
    """Where one tensor lies in a bucket: byte offset, shape, and torch's name of its dtype."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class ShmWeightSync:
    """Learner → Ray's object store → the worker → one file in shared memory → the engine maps it.

    Works for CPU and GPU engines and for any tensor-parallel size on one node, and across nodes
    because the object store brings the parameters to each. `bucket_bytes` bounds the extra memory.
    """

    backend = "sake_ray_shm"

    def __init__(self, folder: Path = Path("/dev/shm"), bucket_bytes: int = DEFAULT_BUCKET_BYTES) -> None:
        if not folder.is_dir():
            raise WeightSyncError(f"shared-memory folder {folder} does not exist; name one that lies in memory")
        if bucket_bytes < 1:
            raise WeightSyncError(f"bucket_bytes is {bucket_bytes}; it must be at least 1")
        self._folder = folder
        self._bucket_bytes = bucket_bytes
        self._count = 0
        self._remove_stale()

    @property
    def init_info(self) -> dict[str, Any]:
        """Nothing: the receiving side learns everything from each update."""
        return {}

    async def push(self, control: WeightControl, params: Params, version: int) -> int:
        """Write and load `params` bucket by bucket.

        Raises:
            WeightSyncError: there are no parameters, one of them is neither a numpy array nor a CPU
                tensor, or shared memory is too small (before the engine was touched).
        """
        if not params:
            raise WeightSyncError("there are no parameters to hand over")
        buckets = list(plan_buckets(params, self._bucket_bytes))
        self._check_room(max(_bucket_size(bucket) for bucket in buckets))
        await control.start_weight_update()
        for bucket in buckets:
            with self._file() as path:
                # In a thread: gigabytes are copied, and the worker's loop must go on answering.
                await asyncio.to_thread(_write, path, bucket, params)
                await control.update_weights(
                    {
                        "path": str(path),
                        "names": [item.name for item in bucket],
                        "dtypes": [item.dtype for item in bucket],
                        "shapes": [list(item.shape) for item in bucket],
                        "offsets": [item.offset for item in bucket],
                    }
                )
        await control.finish_weight_update(str(version))
        return sum(item.nbytes for bucket in buckets for item in bucket)

    @contextlib.contextmanager
    def _file(self) -> Iterator[Path]:
        """A name for one bucket; the engine's mapping outlives the file, so it goes at once."""
        self._count += 1
        path = self._folder / f"{FILE_PREFIX}{pid_space()}-{os.getpid()}-{self._count}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise WeightSyncError(
                f"{self._folder} has {free} bytes free and a bucket of weights needs {needed}; give the container "
                "more shared memory (docker: --shm-size) or lower bucket_bytes"
            )

    def _remove_stale(self) -> None:
        """Remove what a killed process of this user left behind.

        Containers may share the folder and not their process ids: a file of another space is let be, since whether
        its process lives cannot be told from here.
        """
        own = f"{FILE_PREFIX}{pid_space()}-"
        for path in self._folder.glob(f"{own}*"):
            pid = path.name.removeprefix(own).partition("-")[0]
            # Another worker may be removing the same file; and in a sticky folder only the owner can.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                if pid.isdigit() and not Path("/proc", pid).exists() and path.lstat().st_uid == os.getuid():
                    path.unlink()


@functools.cache
def pid_space() -> str:
    """A name for where a process id means one process: this boot of the machine, and this pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return hashlib.sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:12]


def make_weight_sync(backend: str) -> WeightSync:
    """The transport named `backend`.

    Raises:
        WeightSyncError: there is no such transport here, naming the one to use.
    """
    if backend == "shm":
        return ShmWeightSync()
    if backend in ("nccl", "ipc", "sharded_rdt"):
        raise WeightSyncError(
            f"weight sync {backend!r} is vLLM's own GPU transport and is not wired up in this version; use 'shm', "
            "which also serves GPU engines (through host memory)"
        )
    raise WeightSyncError(f"unknown weight sync {backend!r}; there is 'shm'")


def plan_buckets(params: Params, bucket_bytes: int) -> Iterator[list[Placed]]:
    """Lay `params` out in order, in buckets of at most `bucket_bytes` (a larger tensor gets its own)."""
    bucket: list[Placed] = []
    end = 0
    for name, value in params.items():
        dtype, shape, nbytes = _describe(name, value)
        offset = math.ceil(end / ALIGNMENT) * ALIGNMENT
        if bucket and offset + nbytes > bucket_bytes:
            yield bucket
            bucket, offset = [], 0
        bucket.append(Placed(name, dtype, shape, offset, nbytes))
        end = offset + nbytes
    if bucket:
        yield bucket


def _bucket_size(bucket: list[Placed]) -> int:
    return bucket[-1].offset + bucket[-1].nbytes


def _describe(name: str, value: Any) -> tuple[str, tuple[int, ...], int]:
    """The dtype's torch name, the shape and the size in bytes of an array or CPU tensor."""
    if getattr(getattr(value, "device", None), "type", "cpu") != "cpu":
        raise WeightSyncError(f"parameter {name} is on {value.device}; bring it to the CPU before publishing")
    if not (hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "nbytes")):
        raise WeightSyncError(f"parameter {name} is a {type(value).__name__}; expected a numpy array or a CPU tensor")
    return str(value.dtype).removeprefix("torch."), tuple(value.shape), int(value.nbytes)


def _write(path: Path, bucket: list[Placed], params: Params) -> None:
    """Write a bucket's tensors at their offsets into a new file only this user can read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for item in bucket:
            file.seek(item.offset)
            file.write(_raw_bytes(params[item.name]))
        file.truncate(_bucket_size(bucket))


def _raw_bytes(value: Any) -> memoryview:
    """The bytes of an array or tensor, without a copy where it is contiguous."""
    import numpy as np

    if not isinstance(value, np.ndarray | np.generic):  # a torch tensor; numpy has no bfloat16, so by way of bytes
        import torch

        value = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    data: memoryview = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    return data
