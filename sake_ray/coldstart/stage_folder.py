"""A stage's folder that a killed run goes on in: who works there, its settings, and JSON-lines files that only grow.

Knows nothing of what the lines hold. Always holds: one job at a time works in a folder that is held, and one that is
killed holds it no more; a folder of other settings is refused, naming them; half a line that a killed run left is
dropped before anything is read or added.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sake_ray.data.json_files import append_lines, parse_json, read_text, write_json
from sake_ray.data.problems import DataError, FieldError

SETTINGS = "settings.json"
_LOCK = ".job.lock"


@contextmanager
def held(folder: Path, setting: str = "run.dir") -> Iterator[None]:
    """Make the folder if need be, and keep a second job out of it: both would add to the same files.

    `setting` is what the user gave the folder by.

    Raises:
        DataError: another job is in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("w")
    except OSError as error:
        raise DataError(f"{setting}={folder}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{setting}={folder}: another job is working there; choose another") from None
        yield


def claim(folder: Path, identity: Mapping[str, Any], setting: str = "run.dir") -> None:
    """Make the folder this run's: write its settings there, or hold them against those that are there.

    `setting` is what the user gave the folder by.

    Raises:
        DataError: the folder belongs to other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    if not path.exists():
        write_json(path, identity)
        return
    try:
        found = parse_json(read_text(path))
    except FieldError as error:
        raise DataError(f"{path}: {error}; choose another {setting}, or remove the folder") from error
    wanted = json.loads(json.dumps(dict(identity)))
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no settings; choose another {setting}, or remove the folder")
    differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if differing:
        raise DataError(
            f"{folder} was made with other settings ({', '.join(differing)} differ); choose another {setting}, or "
            "remove the folder"
        )


class GrowingFile:
    """JSON lines that are on disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        """Open or begin the file, without half a line at its end."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) != len(content):
            scratch = path.with_name(f"{path.name}.tmp")
            scratch.write_bytes(whole)
            os.replace(scratch, path)
        self.empty = not whole

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one line."""
        append_lines(self.path, [dict(row)])
