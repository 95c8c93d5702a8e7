"""Picture files named by the hash of their content, in a folder that several processes write to.

Knows nothing of answers or databases. Always holds: a file is there whole or not at all, whatever is killed when; what
is written is on the disk before it gets its name.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
_NAME = re.compile(r"([0-9a-f]{64})(\.[a-z0-9]{1,8})")
_SCRATCH = "scratch"
_SCRATCH_S = 3600.0
"""Seconds after which a file that never got its name is taken for left behind."""


class PictureFiles:
    """The pictures below a store's folder."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "pictures"
        self._scratch = folder / _SCRATCH

    def prepare(self) -> None:
        """Make the folders, and clear away what killed processes left."""
        self._root.mkdir(exist_ok=True)
        self._scratch.mkdir(exist_ok=True)
        for path in self._scratch.iterdir():
            _remove_if_older(path, time.time() - _SCRATCH_S)

    def path(self, sha256: str, suffix: str) -> Path:
        """Where a picture lies, if it is there.

        Raises:
            ValueError: a suffix of another form than `.jpg`.
        """
        if not _SUFFIX.fullmatch(suffix):
            raise ValueError(f"suffix {suffix!r}: must be a dot and up to eight small letters or digits")
        return self._root / sha256[:2] / f"{sha256}{suffix}"

    def stage(self, data: bytes) -> Path:
        """Write the content under a passing name; `place` gives it its own."""
        handle, name = tempfile.mkstemp(dir=self._scratch)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's are for the owner alone; a recording may be another's to read
        return Path(name)

    def place(self, staged: Path, path: Path) -> None:
        """Give a staged file its name; a file that has it is replaced."""
        path.parent.mkdir(exist_ok=True)
        os.replace(staged, path)

    def remove(self, sha256: str, suffix: str) -> None:
        """Remove a picture, if it is there."""
        self.path(sha256, suffix).unlink(missing_ok=True)

    def everything(self) -> Iterator[tuple[str, Path]]:
        """Hash and path of every picture file."""
        for path in self._root.glob("??/*"):
            if match := _NAME.fullmatch(path.name):
                yield match.group(1), path


def is_whole(path: Path, size: int) -> bool:
    """Whether a file is there with all its bytes."""
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _remove_if_older(path: Path, time_s: float) -> None:
    try:
        if path.stat().st_mtime < time_s:
            path.unlink()
    except FileNotFoundError:  # another process was quicker
        return
