"""Checkpoint folders that are whole or not there: written aside, listed by hash, renamed, pruned.

Knows files only: nothing of models, Ray or what the state means. Always holds: `step-000012` exists only
once every file in it is on disk and named with size and SHA-256 in its manifest; a folder still being
written is called `tmp-…`; a checkpoint that does not match its manifest is never loaded, and falling
back to an older one is logged as an error. A full disk (`NoRoom`) costs the checkpoint that was to be
written and no other. State is JSON; nothing is pickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "state.json"
FORMAT = 1
LARGEST_JSON_BYTES = 256 * 2**20

_FULL = (errno.ENOSPC, errno.EDQUOT)
_STEP_FOLDER = re.compile(r"step-(\d{6,12})")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or is not fit to load; the message says which and what to do."""


class NoRoom(CheckpointError):
    """The disk has no room for a checkpoint; those that are there are as they were."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint: its folder, its step, and the JSON state saved with it."""

    folder: Path
    step: int
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run, in one folder."""

    def __init__(self, root: Path, keep: int = 2, protected: Collection[int] = ()) -> None:
        """Keep the newest `keep` checkpoints under `root` (created on the first write), and those of these steps."""
        if keep < 1:
            raise ValueError(f"keep={keep}: at least one checkpoint must be kept")
        self.root = root
        self.keep = keep
        self.protected = frozenset(protected)

    @contextlib.contextmanager
    def begin(self, step: int, state: Mapping[str, Any]) -> Iterator[Path]:
        """Write a checkpoint: fill the folder this gives; on leaving it becomes `step-…`, or nothing.

        Raises:
            CheckpointError: this step already has a checkpoint, or the body wrote a reserved name.
            NoRoom: the disk is full, or has less room than the newest checkpoint takes; earlier ones stay.
        """
        pending = self._open(step)
        with self._gone_on_failure(pending, step):
            yield pending
        self._complete(pending, step, state)

    async def save(self, step: int, state: Mapping[str, Any], fill: Callable[[Path], Awaitable[None]]) -> None:
        """As `begin`, filled by others: hashing and flushing to disk, which take long, leave the event loop free."""
        pending = self._open(step)
        with self._gone_on_failure(pending, step):
            await fill(pending)
        # Cleans up by itself: were this cancelled, the thread would go on in a folder that is being removed.
        await asyncio.to_thread(self._complete, pending, step, state)

    def write(self, step: int, state: Mapping[str, Any], writers: Mapping[str, Callable[[Path], None]]) -> Path:
        """Write a checkpoint of `state` and one subfolder per writer; return its folder."""
        with self.begin(step, state) as folder:
            for name, writer in writers.items():
                (folder / name).mkdir(parents=True)
                writer(folder / name)
        return self.root / f"step-{step:06d}"

    def find_latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None when there is none at all.

        Raises:
            CheckpointError: there are checkpoints and every one is damaged.
        """
        damaged: list[str] = []
        for folder in reversed(self._all()):
            try:
                found = load(folder)
            except CheckpointError as error:
                damaged.append(str(error))
                log.error("%s; trying the checkpoint before it", error)
                continue
            if damaged:
                log.error("resuming from the OLDER checkpoint %s: %d newer one(s) are damaged", folder, len(damaged))
            return found
        if damaged:
            raise CheckpointError(
                f"every checkpoint in {self.root} is damaged: {'; '.join(damaged)}. "
                "Restore one, or start over with trainer.resume=never and another run.dir"
            )
        return None

    def _open(self, step: int) -> Path:
        """The folder in which the checkpoint of `step` is made."""
        final = self.root / f"step-{step:06d}"
        if final.exists():
            raise CheckpointError(f"{final} exists already; a checkpoint is never overwritten")
        self._remove_leftovers()
        pending = self.root / f"tmp-{final.name}"
        with self._gone_on_failure(pending, step):
            pending.mkdir(parents=True)
            if shutil.disk_usage(self.root).free < sum(map(_size, self._all()[-1:])):
                raise NoRoom(self._lacks(step))
        return pending

    @contextlib.contextmanager
    def _gone_on_failure(self, pending: Path, step: int) -> Iterator[None]:
        """Remove a folder whose making failed; raise `NoRoom` where that was for want of room."""
        try:
            yield
        except BaseException as error:
            shutil.rmtree(pending, ignore_errors=True)
            if lacks_room(error) and not isinstance(error, NoRoom):
                raise NoRoom(self._lacks(step)) from error
            raise

    def _lacks(self, step: int) -> str:
        """What to tell of a checkpoint that found no room."""
        newest = self._all()[-1:]
        last = f"the last one ({newest[0].name}) takes {_mib(_size(newest[0]))}" if newest else "it is the first one"
        return (
            f"no room for the checkpoint of step {step}: {self.root} has {_mib(shutil.disk_usage(self.root).free)} "
            f"free, {last}. Those that are there are untouched; free some room, or lower trainer.keep_checkpoints"
        )

    def _complete(self, pending: Path, step: int, state: Mapping[str, Any]) -> None:
        """Turn a filled folder into the checkpoint of `step`."""
        with self._gone_on_failure(pending, step):
            for name in (MANIFEST, STATE):
                if (pending / name).exists():
                    raise CheckpointError(f"{pending / name}: this name is the checkpoint's own; write to another")
            _write_json(pending / STATE, dict(state))
            files = {p.relative_to(pending).as_posix(): _describe(p) for p in _files(pending)}
            _write_json(pending / MANIFEST, {"format": FORMAT, "step": step, "files": files})
            _sync_folders(pending)
            pending.rename(self.root / f"step-{step:06d}")
            _sync(self.root)
        self._prune()

    def _all(self) -> list[Path]:
        """Folders named `step-…`, oldest first."""
        if not self.root.is_dir():
            return []
        found = [(int(m[1]), p) for p in self.root.iterdir() if p.is_dir() and (m := _STEP_FOLDER.fullmatch(p.name))]
        return [path for _, path in sorted(found)]

    def _prune(self) -> None:
        for folder in self._all()[: -self.keep]:
            if int(folder.name.removeprefix("step-")) in self.protected:
                continue
            # Renamed first: a removal that is cut short must not leave half a `step-…`.
            doomed = folder.rename(self.root / f"tmp-old-{folder.name}")
            shutil.rmtree(doomed)

    def _remove_leftovers(self) -> None:
        for folder in self.root.glob("tmp-*") if self.root.is_dir() else ():
            log.warning("removing %s, left by a run that was cut off", folder)
            shutil.rmtree(folder)


def lacks_room(error: BaseException) -> bool:
    """Whether a full disk (or quota) is behind an error, however libraries and other processes wrapped it."""
    texts = [os.strerror(number) for number in _FULL]
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        # By number where it is still an OSError; torch, safetensors and Ray hand on its text.
        if isinstance(link, NoRoom) or (isinstance(link, OSError) and link.errno in _FULL):
            return True
        if any(text in str(link) for text in texts):
            return True
        seen.append(link)
        link = link.__cause__ or link.__context__
    return False


def load(folder: Path) -> Checkpoint:
    """Check a checkpoint folder against its manifest and read its state.

    Raises:
        CheckpointError: no manifest, or a file is missing, extra, or of another size or hash.
    """
    manifest = _read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{folder / MANIFEST}: not a manifest of format {FORMAT}")
    listed: dict[str, Any] = manifest["files"]
    present = {p.relative_to(folder).as_posix(): p for p in _files(folder)}
    present.pop(MANIFEST, None)
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            raise CheckpointError(f"checkpoint {folder}: {name} is missing")
        if name not in listed:
            raise CheckpointError(f"checkpoint {folder}: {name} is not in its manifest")
        size = present[name].stat().st_size
        if size != listed[name].get("size"):
            raise CheckpointError(f"checkpoint {folder}: {name} has {size} bytes, not {listed[name].get('size')}")
        if _hash(present[name]) != listed[name].get("sha256"):
            raise CheckpointError(f"checkpoint {folder}: the content of {name} is not what was written (SHA-256)")
    step = manifest.get("step")
    if not isinstance(step, int):
        raise CheckpointError(f"{folder / MANIFEST}: step {step!r} is not a number")
    return Checkpoint(folder, step, _read_json(folder / STATE))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _describe(path: Path) -> dict[str, Any]:
    """Size and hash of a file that is forced to disk first."""
    _sync(path)
    return {"size": path.stat().st_size, "sha256": _hash(path)}


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folders(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            _sync(path)
    _sync(folder)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, ensure_ascii=False, indent=1, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            raise CheckpointError(f"{path}: larger than {LARGEST_JSON_BYTES} bytes, so it is no file of ours")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path.parent}: {path.name} is missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not an object")
    return value
