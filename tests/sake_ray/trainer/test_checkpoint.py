"""Checkpoint folders: whole or absent, newest first, damage is refused and said aloud."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from sake_ray.trainer import checkpoint
from sake_ray.trainer.checkpoint import CheckpointError, CheckpointStore, NoRoom, lacks_room, load
from tests.small_disk import small_disk


def fill(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_bytes(b"\x00" * 1000)


def written(root: Path, *steps: int, keep: int = 9) -> CheckpointStore:
    store = CheckpointStore(root, keep=keep)
    for step in steps:
        store.write(step, {"step": step, "nested": {"seed": [1, 2]}}, {"learner": fill})
    return store


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    found = written(tmp_path, 3, 12, 5).find_latest()
    assert found is not None
    assert (found.step, found.state) == (12, {"step": 12, "nested": {"seed": [1, 2]}})
    assert (found.folder / "learner" / "deep" / "weights").stat().st_size == 1000
    assert found.folder.name == "step-000012"


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "absent").find_latest() is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    written(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000004"]


def test_a_protected_step_is_kept_besides(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2, protected=(2,))
    for step in (1, 2, 3, 4, 5):
        store.write(step, {}, {"learner": fill})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000004", "step-000005"]


def test_a_write_that_fails_leaves_nothing_and_hides_nothing(tmp_path: Path) -> None:
    store = written(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt), store.begin(2, {}) as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="JSON compliant"):
        store.write(2, {"loss": float("nan")}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


async def test_hashing_and_flushing_leave_the_event_loop_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop that comes while a large checkpoint is written is heard at once."""
    heard = threading.Event()
    waited: list[bool] = []
    hashed = checkpoint._hash

    def slow(path: Path) -> str:
        waited.append(heard.wait(10))
        return hashed(path)

    async def stop() -> None:
        heard.set()

    async def make(folder: Path) -> None:
        fill(folder)

    monkeypatch.setattr(checkpoint, "_hash", slow)
    store = CheckpointStore(tmp_path)
    await asyncio.gather(store.save(1, {"step": 1}, make), stop())
    found = store.find_latest()
    assert found is not None and found.state == {"step": 1}
    assert waited and all(waited)


def test_a_body_that_fails_leaves_nothing_when_awaited_too(tmp_path: Path) -> None:
    async def half(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("no space")

    async def reserved(folder: Path) -> None:
        (folder / "state.json").write_text("{}")

    for body, error in ((half, OSError), (reserved, CheckpointError)):
        with pytest.raises(error):
            asyncio.run(CheckpointStore(tmp_path).save(1, {}, body))
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_run_are_ignored_and_removed(tmp_path: Path) -> None:
    store = written(tmp_path, 1)
    (tmp_path / "tmp-step-000002").mkdir()
    found = store.find_latest()
    assert found is not None and found.step == 1
    written(tmp_path, 2)
    assert not (tmp_path / "tmp-step-000002").exists()


def test_a_step_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="never overwritten"):
        written(tmp_path, 1, 1)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add", "manifest", "no manifest", "state"])
def test_damage_is_refused_by_name_and_the_one_before_is_used_loudly(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = written(tmp_path, 1, 2)
    newest = tmp_path / "step-000002"
    weights, manifest = newest / "learner" / "deep" / "weights", newest / "manifest.json"
    if damage == "flip":
        weights.write_bytes(b"\x00" * 999 + b"\x01")
    elif damage == "cut":
        weights.write_bytes(b"\x00" * 10)
    elif damage == "remove":
        weights.unlink()
    elif damage == "add":
        (newest / "extra").write_text("extra")
    elif damage == "manifest":
        manifest.write_text("{")
    elif damage == "no manifest":
        manifest.unlink()
    else:
        (newest / "state.json").write_text(json.dumps({"step": 9}))
    with pytest.raises(CheckpointError, match="step-000002"):
        load(newest)
    with caplog.at_level(logging.ERROR):
        found = store.find_latest()
    assert found is not None and found.step == 1
    assert "OLDER checkpoint" in caplog.text


def test_if_all_are_damaged_it_stops(tmp_path: Path) -> None:
    store = written(tmp_path, 1)
    (tmp_path / "step-000001" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint"):
        store.find_latest()


# --- a full disk ----------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", mib=3) as folder:
        yield folder


def filled(size: int) -> Callable[[Path], Awaitable[None]]:
    async def fill(folder: Path) -> None:
        (folder / "weights").write_bytes(b"\x01" * size)

    return fill


@pytest.mark.parametrize("size", [2**20, 5 * 2**20], ids=["known beforehand", "found while writing"])
async def test_a_full_disk_costs_one_checkpoint_and_says_what_is_needed(disk: Path, size: int) -> None:
    root = disk / "checkpoints"
    store = CheckpointStore(root)
    await store.save(1, {}, filled(2**20))
    if size == 2**20:
        (disk / "other").write_bytes(b"\x02" * (3 * 2**20 // 2))
    with pytest.raises(NoRoom, match=r"step 2: .*MiB free, the last one \(step-000001\) takes 1\.0 MiB") as raised:
        await store.save(2, {}, filled(size))
    assert str(root) in str(raised.value)
    assert [path.name for path in root.iterdir()] == ["step-000001"]
    found = store.find_latest()
    assert found is not None and found.step == 1

    (disk / "other").unlink(missing_ok=True)
    await store.save(3, {}, filled(2**20))
    assert sorted(path.name for path in root.iterdir()) == ["step-000001", "step-000003"]


async def test_a_disk_that_is_full_for_the_state_alone_is_a_full_disk(disk: Path) -> None:
    root = disk / "checkpoints"
    with pytest.raises(NoRoom, match="it is the first one"):
        await CheckpointStore(root).save(1, {"trajectories": "x" * (3 * 2**20)}, filled(2**10))
    assert list(root.iterdir()) == []


def test_a_full_disk_is_known_however_it_is_told() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    wrapped = RuntimeError("writing failed")
    wrapped.__cause__ = full
    told = [full, wrapped, OSError(errno.EDQUOT, "quota"), RuntimeError("I/O error: No space left on device (os 28)")]
    assert all(lacks_room(error) for error in told)
    assert not any(lacks_room(error) for error in (OSError(errno.EIO, "input/output"), ValueError("disk"), KeyError(1)))
