"""A stage's folder that a killed run goes on in: the settings it belongs to, and JSON-lines files that only grow.

Knows nothing of what the lines hold. Always holds: a folder of other settings is refused, naming them; half a line
that a killed run left is dropped before anything is read or added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sake_ray.data.json_files import append_lines, parse_json, read_text, write_json
from sake_ray.data.problems import DataError, FieldError

SETTINGS = "settings.json"


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
