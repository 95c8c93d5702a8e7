"""`PostRecord`s in files: an evaluation's `posts.jsonl`, and what a run wrote of its episodes.

A line of `posts.jsonl` has the fields of `PostRecord` under their own names; entities and boxes are written as an
answer is (`{"entity", "type", "box2d"}`, `[]` for no box), gold with `boxes`. Derived fields beside them (`scores`,
`verdicts`) are for people and pages, and are not read back. Knows nothing of scores. Always holds: what was written
reads back as it was; boxes of a run's rows, which are in pixels of the sized picture, come out in original pixels by
the run's own pixel limits, never by a default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rewards.composite import Sizes, claims_of, to_original
from rewards.entities import Claim
from rewards.evaluation.records import GoldEntity, PostRecord, SearchRecord, TurnRecord
from rewards.fields import list_at, object_at, text_at
from rewards.parsing import read_quad
from rewards.rows import read_row
from sake_ray.data.boxes import Quad
from sake_ray.data.fmnerg import FMNERG_TYPES
from sake_ray.data.gold import MAX_ROWS, check_difficulty, check_seen, check_size, need
from sake_ray.data.images import processed_size
from sake_ray.data.json_files import read_object, read_values
from sake_ray.data.problems import DataError, FieldError
from sake_ray.types import Answer, StopReason

POSTS = "posts.jsonl"
MAX_LINE = 16 * 1024 * 1024
_MOST = 10_000
_ACTION_KINDS = {"TextSearch": "text", "ImageSearch": "image"}


def read_records(path: Path, step: int | None = None) -> list[PostRecord]:
    """The records of an evaluation's folder or `posts.jsonl`, or of a run's trajectory file.

    Of a run's file only one step is read: `step`, or the last one there is.

    Raises:
        DataError: the file cannot be read, a line is wrong, or a run's config.json is not beside it; says where.
    """
    file = path / POSTS if path.is_dir() else path
    lines = list(read_values(file, max_value_chars=MAX_LINE))
    if lines and is_run_row(lines[0][1]):
        return _run_records(file, lines, step)
    if step is not None:
        raise DataError(f"{file}: step={step} picks a step of a run's trajectory file, which this is not")
    records = []
    for line, value in lines:
        try:
            records.append(record_of(value))
        except FieldError as error:
            raise DataError(f"{file}:{line}: {error}") from error
    return records


def is_run_row(value: object) -> bool:
    """Whether a value looks like a row of a run's trajectory file."""
    return isinstance(value, dict) and "example" in value and "turns" in value


def records_of_rows(rows: Iterable[Mapping[str, Any]], *, min_pixels: int, max_pixels: int) -> list[PostRecord]:
    """A run's rows as records; `sample` counts a post's answers within a step, in the order of the rows.

    Args:
        rows: as `sake_ray.metrics.trajectory_rows` gives them.
        min_pixels: `data.min_pixels` of the run's configuration.
        max_pixels: `data.max_pixels` of it.

    Raises:
        FieldError: a row is of another form; names its field.
    """
    seen: Counter[tuple[object, object]] = Counter()
    records = []
    for row in rows:
        key = (row.get("step"), row.get("example"))
        records.append(_of_row(row, seen[key], min_pixels, max_pixels))
        seen[key] += 1
    return records


def pixel_limits(config: Path) -> tuple[int, int]:
    """`data.min_pixels` and `data.max_pixels` of a run's config.json.

    Raises:
        DataError: there is no such file, or it does not say.
    """
    data = read_object(config).get("data")
    found = [data.get(name) if isinstance(data, dict) else None for name in ("min_pixels", "max_pixels")]
    low, high = found
    if not isinstance(low, int) or not isinstance(high, int) or not 0 < low <= high:
        raise DataError(f"{config}: data.min_pixels and data.max_pixels are {found}; is it the one that a run wrote?")
    return low, high


def record_row(record: PostRecord) -> dict[str, Any]:
    """A record as a line of `posts.jsonl`."""
    return {
        "id": record.id,
        "text": record.text,
        "image": record.image,
        "image_size": list(record.image_size) if record.image_size else None,
        "sample": record.sample,
        "gold": [
            {
                "entity": entity.text,
                "type": entity.type,
                "boxes": [list(box) for box in entity.boxes],
                "coarse": entity.coarse,
                "difficulty": entity.difficulty,
                "hits": entity.hits,
                "samples": entity.samples,
                "seen": entity.seen,
            }
            for entity in record.gold
        ],
        "claims": [
            {"entity": claim.text, "type": claim.type, "box2d": list(claim.box) if claim.box else []}
            for claim in record.claims
        ],
        "turns": [_turn_row(turn) for turn in record.turns],
        "stop_reason": record.stop_reason,
        "reward": None if record.reward is None else dict(record.reward),
        "advantage": record.advantage,
        "tokens": record.tokens,
        "sampled_tokens": record.sampled_tokens,
        "seconds": record.seconds,
        "extra": dict(record.extra),
    }


def record_of(value: object) -> PostRecord:
    """A line of `posts.jsonl` as a record.

    Raises:
        FieldError: a field is missing or of another form.
    """
    row = object_at(value, "line")
    gold = list_at(need(row, "gold"), "gold", MAX_ROWS)
    claims = list_at(need(row, "claims"), "claims", _MOST)
    turns = list_at(row.get("turns") or [], "turns", _MOST)
    reward = row.get("reward")
    return PostRecord(
        id=text_at(need(row, "id"), "id"),
        text=text_at(row.get("text", ""), "text"),
        gold=tuple(_gold(item, f"gold[{at}]") for at, item in enumerate(gold)),
        claims=tuple(_claim(item, f"claims[{at}]") for at, item in enumerate(claims)),
        image=text_at(row.get("image", ""), "image"),
        image_size=check_size(row.get("image_size")),
        sample=_count(row, "sample") or 0,
        turns=tuple(_turn(item, f"turns[{at}]") for at, item in enumerate(turns)),
        stop_reason=text_at(row.get("stop_reason", ""), "stop_reason"),
        reward=None if reward is None else dict(object_at(reward, "reward")),
        advantage=_number(row, "advantage"),
        tokens=_count(row, "tokens") or 0,
        sampled_tokens=_count(row, "sampled_tokens") or 0,
        seconds=_number(row, "seconds"),
        extra=dict(object_at(row.get("extra") or {}, "extra")),
    )


# --- a run's rows ----------------------------------------------------------------------------------------


def _run_records(file: Path, lines: list[tuple[int, Any]], step: int | None) -> list[PostRecord]:
    low, high = pixel_limits(file.with_name("config.json"))
    rows = [(line, value) for line, value in lines if isinstance(value, dict) and isinstance(value.get("step"), int)]
    if len(rows) < len(lines):
        raise DataError(f"{file}: {len(lines) - len(rows)} lines are no rows with a step")
    steps = sorted({value["step"] for _, value in rows})
    wanted = steps[-1] if step is None else step
    if wanted not in steps:
        raise DataError(f"{file}: has no step {wanted}; it has {', '.join(map(str, steps[:20]))}")
    counted: Counter[object] = Counter()
    records = []
    for line, value in rows:
        if value["step"] != wanted:
            continue
        try:
            records.append(_of_row(value, counted[value["example"]], low, high))
        except FieldError as error:
            raise DataError(f"{file}:{line}: {error}") from error
        counted[value["example"]] += 1
    return records


def _of_row(row: Mapping[str, Any], sample: int, min_pixels: int, max_pixels: int) -> PostRecord:
    trajectory = read_row(row)
    image = trajectory.example.image
    size = (image.width, image.height)
    claims: list[Claim] = []
    if trajectory.stop_reason is StopReason.ANSWER:
        action = trajectory.turns[-1].action if trajectory.turns else None
        if not isinstance(action, Answer):
            raise FieldError("turns", "end with no answer, but stop_reason is answer")
        processed = processed_size(*size, min_pixels=min_pixels, max_pixels=max_pixels)
        claims = to_original(claims_of(action), Sizes(processed, size))
    turns = tuple(_run_turn(turn) for turn in row["turns"])
    return PostRecord(
        id=trajectory.example.id,
        text=text_at(row.get("post", ""), "post"),
        gold=tuple(_gold(item, f"gold[{at}]") for at, item in enumerate(row["gold"])),
        claims=tuple(claims),
        image=text_at(row.get("image", ""), "image"),
        image_size=size,
        sample=sample,
        turns=turns,
        stop_reason=str(trajectory.stop_reason),
        reward=row.get("reward"),
        advantage=_number(row, "advantage"),
        tokens=_count(row, "tokens") or 0,
        sampled_tokens=_count(row, "sampled_tokens") or 0,
        seconds=sum(turn.generate_s + (turn.search_s or 0.0) for turn in turns),
        extra={name: row[name] for name in ("step", "kind", "version") if name in row} | {"trajectory": trajectory.id},
    )


def _run_turn(turn: Mapping[str, Any]) -> TurnRecord:
    action = text_at(turn.get("action", ""), "action")
    searches = tuple(
        SearchRecord(
            _ACTION_KINDS.get(action, ""),
            text_at(result.get("query"), "query"),
            text_at(result.get("status"), "status"),
            text_at(result.get("text", ""), "text"),
            result.get("reason"),
            tuple(result.get("pictures") or ()),
        )
        for result in turn["results"] or ()
    )
    generate, search = _number(turn, "generate_s"), _number(turn, "search_s")
    return TurnRecord(turn["text"], action, searches, generate or 0.0, search)


# --- piece by piece --------------------------------------------------------------------------------------


def _turn_row(turn: TurnRecord) -> dict[str, Any]:
    searches = [
        {
            "kind": search.kind,
            "query": search.query,
            "status": search.status,
            "text": search.text,
            "reason": search.reason,
            "pictures": list(search.pictures),
        }
        for search in turn.searches
    ]
    return {
        "text": turn.text,
        "action": turn.action,
        "searches": searches,
        "generate_s": turn.generate_s,
        "search_s": turn.search_s,
    }


def _turn(value: object, where: str) -> TurnRecord:
    row = object_at(value, where)
    found = list_at(row.get("searches") or [], f"{where}.searches", _MOST)
    searches = []
    for at, item in enumerate(found):
        search = object_at(item, f"{where}.searches[{at}]")
        kind, query, status, text = (
            text_at(search.get(name, ""), f"{where}.searches[{at}].{name}")
            for name in ("kind", "query", "status", "text")
        )
        pictures = tuple(map(str, search.get("pictures") or ()))
        searches.append(SearchRecord(kind, query, status, text, search.get("reason"), pictures))
    return TurnRecord(
        text_at(row.get("text", ""), f"{where}.text"),
        text_at(row.get("action", ""), f"{where}.action"),
        tuple(searches),
        _number(row, "generate_s") or 0.0,
        _number(row, "search_s"),
    )


def _gold(value: object, where: str) -> GoldEntity:
    row = object_at(value, where)
    boxes = list_at(need(row, "boxes", f"{where}."), f"{where}.boxes", MAX_ROWS)
    kind = text_at(need(row, "type", f"{where}."), f"{where}.type")
    return GoldEntity(
        text=text_at(need(row, "entity", f"{where}."), f"{where}.entity"),
        type=kind,
        boxes=tuple(_quad(box, f"{where}.boxes[{at}]") for at, box in enumerate(boxes)),
        coarse=text_at(row.get("coarse") or FMNERG_TYPES.get(kind, ""), f"{where}.coarse"),
        difficulty=check_difficulty(row.get("difficulty"), f"{where}.difficulty"),
        hits=_count(row, "hits"),
        samples=_count(row, "samples"),
        seen=check_seen(row.get("seen"), f"{where}.seen"),
    )


def _claim(value: object, where: str) -> Claim:
    row = object_at(value, where)
    text, kind = (text_at(need(row, name, f"{where}."), f"{where}.{name}") for name in ("entity", "type"))
    box = need(row, "box2d", f"{where}.")
    return Claim(text, kind, None if box == [] else _quad(box, f"{where}.box2d"))


def _quad(value: object, where: str) -> Quad:
    quad = read_quad(value) if isinstance(value, list) else None
    if quad is None:
        raise FieldError(where, f"{value!r:.60} is not a box of four numbers")
    return quad


def _count(row: Mapping[str, Any], name: str) -> int | None:
    value = row.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise FieldError(name, f"{value!r:.40} is not a count")
    return value


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise FieldError(name, f"{value!r:.40} is not a number")
    return None if value is None else float(value)
