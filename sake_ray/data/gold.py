"""The rules gold must keep, whatever file it came in: spans, types, boxes, ids.

Knows nothing of file formats or of pictures. Always holds: what passes is usable as it is (the span gives
the phrase, the type is the task's, every box has an area and lies inside the image where its size is
known), and what does not raises `FieldError` with the field's name; nothing is repaired.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sake_ray.data.problems import FieldError
from sake_ray.data.twitter import TASKS, entity_types
from sake_ray.types import Box, Difficulty, Entity

MAX_TOKENS = 1_000
MAX_TEXT_CHARS = 10_000
MAX_ROWS = 500
MAX_SIDE = 30_000

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
"""What a picture's file name and a post's id look like, here and wherever files are looked up by them."""

_IMAGE_SUFFIX = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp)$", re.IGNORECASE)

Size = tuple[int, int]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class GoldRow:
    """One gold row: a span of the post, its type, and one box or none."""

    field: str
    span: Span
    text: str
    type: str
    coarse_type: str
    box: Box | None
    difficulty: Difficulty | None = None
    seen: bool | None = None


@dataclass(frozen=True, slots=True)
class GoldPost:
    """A post as its file gives it, checked, its picture not yet looked for.

    `size` is the recorded (width, height), None where the file has none; `image_data` holds encoded bytes
    where the file carries the picture itself.
    """

    file: str
    line: int
    id: str
    image_name: str
    size: Size | None
    text: str
    entities: tuple[Entity, ...]
    image_data: bytes | None = field(default=None, repr=False)


def image_name_and_id(name: str, field_name: str) -> tuple[str, str]:
    """The picture's file name and the post's id (the name without the picture's suffix).

    A name without a suffix (`16_05_01_596`) is a `.jpg`, as in the data sets.

    Raises:
        FieldError: the name is not a plain file name, so it could lead out of the picture folder.
    """
    if not PLAIN_NAME.fullmatch(name):
        raise FieldError(
            field_name, f"{name[:80]!r} is not a plain file name (letters, digits, '_', '-', '.'; no folders)"
        )
    post_id = _IMAGE_SUFFIX.sub("", name)
    return (name if post_id != name else f"{name}.jpg"), post_id


def check_tokens(value: Any, field_name: str = "tokens") -> tuple[str, ...]:
    """The post's tokens: non-empty strings without blanks."""
    if not isinstance(value, list) or not value or len(value) > MAX_TOKENS:
        raise FieldError(field_name, f"must be a list of 1 to {MAX_TOKENS} tokens")
    for at, token in enumerate(value):
        if not isinstance(token, str) or token.split() != [token]:
            raise FieldError(f"{field_name}[{at}]", f"{token!r:.80} is not a token (a string without blanks)")
        if any("\ud800" <= letter <= "\udfff" for letter in token):
            raise FieldError(f"{field_name}[{at}]", f"{token!r:.80} holds half a surrogate pair, which is no text")
    if sum(map(len, value)) > MAX_TEXT_CHARS:
        raise FieldError(field_name, f"longer than {MAX_TEXT_CHARS} characters")
    return tuple(value)


def check_size(value: Any, field_name: str = "image_size") -> Size | None:
    """A recorded image size `[width, height]`, or None for a missing one."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_int, value)):
        raise FieldError(field_name, f"{value!r:.80} is not [width, height] in pixels, nor null")
    width, height = value
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise FieldError(field_name, f"{width} x {height} is no image size (sides of 1 to {MAX_SIDE} pixels)")
    return width, height


def check_box(value: Any, size: Size | None, field_name: str) -> Box | None:
    """A gold box `[x1, y1, x2, y2]` in original pixels; `[]` is None, not visible.

    Raises:
        FieldError: no box of whole pixels, without an area, or not inside the image.
    """
    if value == [] and isinstance(value, list):
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_int, value)):
        raise FieldError(field_name, f"{value!r:.80} is neither [x1, y1, x2, y2] in whole pixels nor []")
    box = Box(*value)
    if box.x1 >= box.x2 or box.y1 >= box.y2:
        raise FieldError(field_name, f"{value} has no area (x1 < x2 and y1 < y2 are needed)")
    if max(value) > MAX_SIDE:
        raise FieldError(field_name, f"{value} lies beyond {MAX_SIDE} pixels")
    check_inside(box, size, field_name)
    return box


def check_inside(box: Box, size: Size | None, field_name: str) -> None:
    """Refuse a box that is not inside an image of `size`; with no size only negative corners show."""
    outside = size is not None and (box.x2 > size[0] or box.y2 > size[1])
    if min(box.x1, box.y1) < 0 or outside:
        image = f"the image ({size[0]} x {size[1]})" if size else "any image"
        raise FieldError(field_name, f"box {box.as_list()} lies outside {image}")


def check_type(value: Any, task: str, field_name: str = "entity_type") -> str:
    """A type of the task; the message names the task that does have it."""
    types = entity_types(task)
    if isinstance(value, str) and value in types:
        return value
    other = [name for name, known in TASKS.items() if isinstance(value, str) and value in known]
    hint = f"; it is a type of data.task={other[0]}" if other else ""
    raise FieldError(field_name, f"{value!r:.80} is not one of the {len(types)} types of data.task={task}{hint}")


def check_coarse(value: Any, fine: str, task: str, field_name: str = "entity_coarse_type") -> str:
    """The coarse type of `fine`; a file may leave it out, but may not contradict it."""
    expected = entity_types(task)[fine]
    if value is not None and value != expected:
        raise FieldError(field_name, f"{value!r:.80} is not the coarse type of {fine!r}, which is {expected!r}")
    return expected


def check_span(start: Any, end: Any, phrase: Any, tokens: Sequence[str], field_name: str) -> Span:
    """A span of tokens, both ends inclusive, that reads exactly as `phrase`."""
    if not (_is_int(start) and _is_int(end) and 0 <= start <= end < len(tokens)):
        raise FieldError(
            f"{field_name}.start", f"start {start!r:.20} and end {end!r:.20} are no span of {len(tokens)} tokens"
        )
    reads = " ".join(tokens[start : end + 1])
    if reads != phrase:
        raise FieldError(f"{field_name}.phrase", f"tokens {start} to {end} read {reads!r:.80}, not {phrase!r:.80}")
    return start, end


def check_difficulty(value: Any, field_name: str) -> Difficulty | None:
    """The optional difficulty of a row."""
    if value is None:
        return None
    if not isinstance(value, str) or value not in set(Difficulty):
        raise FieldError(field_name, f"{value!r:.80} is not one of {', '.join(Difficulty)}")
    return Difficulty(value)


def check_seen(value: Any, field_name: str) -> bool | None:
    """The optional seen flag of a row."""
    if value is not None and not isinstance(value, bool):
        raise FieldError(field_name, f"{value!r:.80} is not true or false")
    return value


def entities_of(rows: Sequence[GoldRow]) -> tuple[Entity, ...]:
    """One entity per (start, end, type), with all its boxes, in the order of first mention in `rows`.

    Raises:
        FieldError: a row is repeated, a span has two types, an entity is visible and not visible at once,
            or its rows disagree about difficulty or seen.
    """
    if len(rows) > MAX_ROWS:
        raise FieldError("gt_entities", f"{len(rows)} rows are more than the {MAX_ROWS} a post may have")
    grouped: dict[Span, list[GoldRow]] = {}
    for row in rows:
        grouped.setdefault(row.span, []).append(row)
    return tuple(_entity(group) for group in grouped.values())


def _entity(rows: list[GoldRow]) -> Entity:
    first = rows[0]
    for at, row in enumerate(rows[1:], start=1):
        if row.type != first.type:
            raise FieldError(row.field, f"{row.text!r} at {row.span} is both {first.type} and {row.type}")
        if any(row.box == earlier.box for earlier in rows[:at]):
            raise FieldError(row.field, f"repeats a row: {row.text!r} at {row.span} with the same box")
        if row.box is None or first.box is None:
            raise FieldError(row.field, f"{row.text!r} at {row.span} has a row with a box and one without")
        if (row.difficulty, row.seen) != (first.difficulty, first.seen):
            raise FieldError(row.field, f"{row.text!r} at {row.span} has rows that differ in difficulty or seen")
    boxes = tuple(row.box for row in rows if row.box is not None)
    return Entity(first.text, first.type, boxes, first.coarse_type, first.difficulty, first.seen)


def mention_numbers(rows: Iterable[tuple[str, str, object]]) -> list[int]:
    """Which mention each row (text, type, box or None) of gold without spans belongs to, counted from 0.

    Rows of one text and type are one mention, but none is both visible and not; when a row is repeated exactly, its
    k-th copy belongs to the k-th mention.
    """
    copies: Counter[tuple[str, str, object]] = Counter()
    numbers: dict[tuple[str, str, bool, int], int] = {}
    found = []
    for row in rows:
        text, kind, box = row
        found.append(numbers.setdefault((text, kind, box is None, copies[row]), len(numbers)))
        copies[row] += 1
    return found


def need(row: Mapping[str, Any], key: str, prefix: str = "") -> Any:
    """A field that must be there."""
    if key not in row:
        raise FieldError(f"{prefix}{key}", "is missing")
    return row[key]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
