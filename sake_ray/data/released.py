"""Reads the released gold (a JSON list, or JSON lines), of GMNER and of FMNERG, and ours with `image_size`.

A post is `{tokens, img_id, gt_entities: [{start, end, phrase, entity_type, region_box}]}`, one row per box;
FMNERG rows add `entity_coarse_type`; optional: `image_size` [width, height] or null, and per row
`difficulty` and `seen`. Unknown further keys are left alone. Knows nothing of pictures. Always holds: a post
comes out checked by `sake_ray.data.gold`, or is a problem with its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sake_ray.data import gold
from sake_ray.data.json_files import read_values
from sake_ray.data.problems import FieldError, Problem, ProblemLog


def released_posts(path: Path, task: str, log: ProblemLog) -> Iterator[gold.GoldPost]:
    """The good posts of a released gold file, in order; bad ones go to `log`.

    Raises:
        DataError: the file cannot be read at all, or `log` stops at the first problem.
    """
    for line, value in read_values(path, log):
        try:
            yield _post(value, task, str(path), line)
        except FieldError as error:
            log.add(Problem(str(path), line, error.field, error.message))


def _post(value: Any, task: str, file: str, line: int) -> gold.GoldPost:
    if not isinstance(value, dict):
        raise FieldError("post", f"is {type(value).__name__}, not an object with tokens, img_id and gt_entities")
    tokens = gold.check_tokens(gold.need(value, "tokens"))
    name = gold.need(value, "img_id")
    if not isinstance(name, str):
        raise FieldError("img_id", f"{name!r:.80} is not a string")
    image_name, post_id = gold.image_name_and_id(name, "img_id")
    size = gold.check_size(value.get("image_size"))
    rows = gold.need(value, "gt_entities")
    if not isinstance(rows, list):
        raise FieldError("gt_entities", f"is {type(rows).__name__}, not a list")
    checked = [_row(row, at, task, tokens, size) for at, row in enumerate(rows[: gold.MAX_ROWS + 1])]
    return gold.GoldPost(file, line, post_id, image_name, size, " ".join(tokens), gold.entities_of(checked))


def _row(row: Any, at: int, task: str, tokens: Sequence[str], size: gold.Size | None) -> gold.GoldRow:
    where = f"gt_entities[{at}]"
    if not isinstance(row, dict):
        raise FieldError(where, f"is {type(row).__name__}, not an object")
    prefix = f"{where}."
    phrase = gold.need(row, "phrase", prefix)
    start, end = gold.need(row, "start", prefix), gold.need(row, "end", prefix)
    span = gold.check_span(start, end, phrase, tokens, where)
    kind = gold.check_type(gold.need(row, "entity_type", prefix), task, f"{prefix}entity_type")
    return gold.GoldRow(
        field=where,
        span=span,
        text=phrase,
        type=kind,
        coarse_type=gold.check_coarse(row.get("entity_coarse_type"), kind, task, f"{prefix}entity_coarse_type"),
        box=gold.check_box(gold.need(row, "region_box", prefix), size, f"{prefix}region_box"),
        difficulty=gold.check_difficulty(row.get("difficulty"), f"{prefix}difficulty"),
        seen=gold.check_seen(row.get("seen"), f"{prefix}seen"),
    )
