"""Weights arrive bit for bit, in bounded buckets, and shared memory is left as it was found."""

from __future__ import annotations

import asyncio
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.weight_sync import (
    ALIGNMENT,
    FILE_PREFIX,
    ShmWeightSync,
    WeightSyncError,
    make_weight_sync,
    pid_space,
    plan_buckets,
)


class ReadingEngine:
    """`WeightControl` that reads each bucket back as the engine would, and can fail on one."""

    def __init__(self, fail_at: int = -1) -> None:
        self.calls: list[str] = []
        self.received: dict[str, np.ndarray] = {}
        self.modes: list[int] = []
        self._fail_at = fail_at

    async def start_weight_update(self) -> None:
        self.calls.append("start")

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        if len(self.modes) == self._fail_at:
            raise RuntimeError("engine failed")
        self.calls.append("update")
        self.modes.append(os.stat(update_info["path"]).st_mode & 0o777)
        raw = np.fromfile(update_info["path"], dtype=np.uint8)
        for name, dtype, shape, offset in zip(
            update_info["names"], update_info["dtypes"], update_info["shapes"], update_info["offsets"], strict=True
        ):
            size = math.prod(shape) * np.dtype(dtype).itemsize
            self.received[name] = raw[offset : offset + size].view(dtype).reshape(shape)

    async def finish_weight_update(self, weight_version: str) -> None:
        self.calls.append(f"finish {weight_version}")


def params() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = {"a": (7,), "b": (3, 5), "c": (40, 3), "scalar": ()}
    return {name: np.asarray(generator.standard_normal(shape), dtype=np.float32) for name, shape in shapes.items()}


async def test_every_tensor_arrives_bit_for_bit_and_the_files_are_gone(tmp_path: Path) -> None:
    engine = ReadingEngine()
    sent = params()
    moved = await ShmWeightSync(tmp_path, bucket_bytes=200).push(engine, sent, version=7)
    assert engine.calls[0] == "start" and engine.calls[-1] == "finish 7" and engine.calls.count("update") > 1
    assert moved == sum(value.nbytes for value in sent.values())
    assert set(engine.received) == set(sent)
    assert all(np.array_equal(engine.received[name], value) for name, value in sent.items())
    assert set(engine.modes) == {0o600}
    assert os.listdir(tmp_path) == []


async def test_a_torch_tensor_without_a_numpy_dtype_keeps_its_bytes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    seen: dict[str, Any] = {}

    class Engine(ReadingEngine):
        async def update_weights(self, update_info: dict[str, Any]) -> None:
            seen.update(update_info, raw=np.fromfile(update_info["path"], dtype=np.uint8).tobytes())

    await ShmWeightSync(tmp_path).push(Engine(), {"w": tensor.t()}, version=1)
    assert (seen["dtypes"], seen["shapes"]) == (["bfloat16"], [[6, 4]])
    assert seen["raw"] == tensor.t().contiguous().view(torch.uint8).numpy().tobytes()


async def test_a_failing_engine_leaves_no_file_and_its_error_goes_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="engine failed"):
        await ShmWeightSync(tmp_path, bucket_bytes=64).push(ReadingEngine(fail_at=1), params(), version=1)
    assert os.listdir(tmp_path) == []


async def test_what_cannot_be_handed_over_is_refused_before_the_engine_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ReadingEngine()
    sync = ShmWeightSync(tmp_path)
    with pytest.raises(WeightSyncError, match="no parameters"):
        await sync.push(engine, {}, version=1)
    with pytest.raises(WeightSyncError, match="parameter w is a list"):
        await sync.push(engine, {"w": [1.0]}, version=1)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    with pytest.raises(WeightSyncError, match=r"10 bytes free .* --shm-size"):
        await sync.push(engine, params(), version=1)
    assert engine.calls == []


DEAD = 999_999_999  # above any process id Linux gives


def test_files_of_dead_processes_are_removed_and_those_of_live_ones_kept(tmp_path: Path) -> None:
    dead, alive, other, elsewhere = (
        tmp_path / f"{FILE_PREFIX}{pid_space()}-{DEAD}-1",
        tmp_path / f"{FILE_PREFIX}{pid_space()}-{os.getpid()}-1",
        tmp_path / "x",
        tmp_path / f"{FILE_PREFIX}another-{DEAD}-1",  # of a container whose processes are not seen here
    )
    for path in (dead, alive, other, elsewhere):
        path.touch()
    ShmWeightSync(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([alive, other, elsewhere])


def test_another_users_file_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / f"{FILE_PREFIX}{pid_space()}-{DEAD}-1"
    theirs.touch()
    monkeypatch.setattr("os.getuid", lambda: theirs.stat().st_uid + 1)
    ShmWeightSync(tmp_path)
    assert theirs.exists()


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
def test_a_file_that_cannot_be_removed_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    kept = tmp_path / f"{FILE_PREFIX}{pid_space()}-{DEAD}-1"
    kept.touch()
    tried: list[Path] = []

    def refuse(path: Path) -> None:
        tried.append(path)
        raise error(path)

    monkeypatch.setattr(Path, "unlink", refuse)
    ShmWeightSync(tmp_path)
    assert tried == [kept]


async def test_a_bucket_lies_under_a_name_that_would_be_found_when_its_process_dies(tmp_path: Path) -> None:
    names: list[str] = []

    class Engine(ReadingEngine):
        async def update_weights(self, update_info: dict[str, Any]) -> None:
            names.append(Path(update_info["path"]).name)

    await ShmWeightSync(tmp_path).push(Engine(), params(), version=1)
    assert [name.rpartition("-")[0] for name in names] == [f"{FILE_PREFIX}{pid_space()}-{os.getpid()}"]


def test_a_transport_that_does_not_exist_is_refused_by_name() -> None:
    assert make_weight_sync("shm").backend == ShmWeightSync.backend
    with pytest.raises(WeightSyncError, match=r"'nccl' .* use 'shm'"):
        make_weight_sync("nccl")
    with pytest.raises(WeightSyncError, match="unknown weight sync 'smoke'"):
        make_weight_sync("smoke")


@given(sizes=st.lists(st.integers(0, 300), max_size=30), bucket_bytes=st.integers(1, 500))
def test_buckets_hold_every_tensor_once_in_order_apart_and_within_bounds(sizes: list[int], bucket_bytes: int) -> None:
    arrays = {f"p{index}": np.zeros(size, dtype=np.uint8) for index, size in enumerate(sizes)}
    buckets = list(plan_buckets(arrays, bucket_bytes))
    assert [item.name for bucket in buckets for item in bucket] == list(arrays)
    for bucket in buckets:
        assert len(bucket) == 1 or bucket[-1].offset + bucket[-1].nbytes <= bucket_bytes
        assert all(item.offset % ALIGNMENT == 0 for item in bucket)
        ends = [0] + [item.offset + item.nbytes for item in bucket]
        assert all(item.offset >= end for item, end in zip(bucket, ends, strict=False))


async def test_two_pushes_at_once_do_not_share_a_file(tmp_path: Path) -> None:
    sync = ShmWeightSync(tmp_path)
    engines = [ReadingEngine(), ReadingEngine()]
    sent = [params(), {name: value + 1 for name, value in params().items()}]
    await asyncio.gather(*(sync.push(engine, values, 1) for engine, values in zip(engines, sent, strict=True)))
    for engine, values in zip(engines, sent, strict=True):
        assert all(np.array_equal(engine.received[name], value) for name, value in values.items())
