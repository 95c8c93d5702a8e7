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

from sake_ray.data.problems import DataError

SETTINGS = "settings.json"


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make the folder this run's: write its settings there, or hold them against those that are there.

    Raises:
        DataError: the folder belongs to other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    if not path.exists():
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(dict(identity), indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, path)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(dict(identity)))
    differing = sorted(key for key in wanted if found.get(key) != wanted[key])
    if differing:
        raise DataError(
            f"{folder} was made with other settings ({', '.join(differing)} differ); choose another run.dir, or remove "
            "the folder"
        )


class GrowingFile:
    """JSON lines that are on disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        """Open or begin the file, without half a line at its end."""
        self.path = path
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
        # A lone surrogate, which UTF-8 cannot hold, becomes `\\udXXX`: JSON's own way to write it.
        with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(dict(row), ensure_ascii=False) + "\n")
