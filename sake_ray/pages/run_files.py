"""A run's folder as a page needs it: metrics and alerts whole, trajectories of some steps only.

Knows nothing of pages. Always holds: a trajectory file of any size is passed through once and only the chosen lines
are read; which steps there are and which were taken is told; a half line at the end of a file that is being written is
left alone, any other broken line is a `DataError` with its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sake_ray.data.json_files import MAX_VALUE_CHARS
from sake_ray.data.json_files import read_object as read_one
from sake_ray.data.problems import DataError, FieldError
from sake_ray.pages.rows import Pixels, RowView, read_view

_STEP = re.compile(rb'\{"step": ?(\d{1,15})[,}]')


@dataclass(frozen=True, slots=True)
class Sampled:
    """Rows of some steps of a trajectory file."""

    rows: tuple[RowView, ...]
    steps: tuple[int, ...]
    taken: tuple[int, ...]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a small JSON-lines file; [] where there is none.

    Raises:
        DataError: a whole line is no object.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == len(lines) and not line.endswith(b"}")):
            continue
        found.append(_object(path, number, line))
    return found


def read_steps(path: Path, pixels: Pixels | None, *, steps: int, rows: int, wanted: Sequence[int] = ()) -> Sampled:
    """The rows of at most `steps` steps and about `rows` rows: the first step, the last, and some between.

    Args:
        path: a trajectory file; none is as good as an empty one.
        pixels: as in `read_view`.
        steps: the most steps to take.
        rows: the most rows; at least one step is taken whole.
        wanted: take exactly these steps instead.

    Raises:
        DataError: a line is wrong, or a wanted step is not there.
    """
    places = _places(path)
    known = sorted(places)
    missing = [step for step in wanted if step not in places]
    if missing:
        raise DataError(f"{path}: has no step {missing[0]}; it has {_said(known)}")
    taken = sorted(wanted) if wanted else _spread(known, steps)
    while not wanted and len(taken) > 1 and sum(len(places[step]) for step in taken) > rows:
        taken = _spread(known, len(taken) - 1)
    found: list[RowView] = []
    if not taken:
        return Sampled((), (), ())
    with path.open("rb") as file:
        for step in taken:
            for number, offset in places[step]:
                file.seek(offset)
                found.append(_view(path, number, file.readline(), pixels))
    return Sampled(tuple(found), tuple(known), tuple(taken))


def run_pixels(config: Path) -> Pixels | None:
    """The pixel limits of a run's config.json; None where it does not say."""
    data = read_object(config).get("data")
    if not isinstance(data, dict):
        return None
    low, high = data.get("min_pixels"), data.get("max_pixels")
    return (low, high) if isinstance(low, int) and isinstance(high, int) and 0 < low <= high else None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no file.

    Raises:
        DataError: it cannot be read or is no object.
    """
    return read_one(path, max_chars=64 * MAX_VALUE_CHARS) if path.is_file() else {}


def finite(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a metrics row."""
    return {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)}


def _places(path: Path) -> dict[int, list[tuple[int, int]]]:
    """Step → (line number, offset) of its rows."""
    places: dict[int, list[tuple[int, int]]] = {}
    if not path.is_file():
        return places
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n") and line.strip():
                found = _STEP.match(line)
                step = int(found[1]) if found else _object(path, number, line).get("step")
                if not isinstance(step, int):
                    raise DataError(f"{path}:{number}: not a row with a step; repair or remove that line")
                places.setdefault(step, []).append((number, offset))
            offset += len(line)
    return places


def _spread(steps: Sequence[int], most: int) -> list[int]:
    if len(steps) <= most:
        return list(steps)
    if most == 1:
        return [steps[-1]]
    return [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]


def _view(path: Path, number: int, line: bytes, pixels: Pixels | None) -> RowView:
    try:
        return read_view(_object(path, number, line), pixels)
    except FieldError as error:
        raise DataError(f"{path}:{number}: {error}") from error


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: not JSON; repair or remove that line") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}:{number}: must be an object")
    return value


def _said(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps)) if len(steps) <= 20 else f"{steps[0]} to {steps[-1]}, {len(steps)} of them"
