"""Reads the RL parquet of the release (verl's layout): prompt, images, reward_model.ground_truth, extra_info.

The post is what follows the last `<image>` in the one user message (the release keeps the post alone there
and prepends its instruction when it loads the file). Ground truth is a JSON list of `{entity, type, bbox}`,
one row per box, without spans. Knows nothing of how a picture is decoded. Always holds: every gold entity's
text occurs in the post; an absolute path in `images` is never followed, only its last part is used.

Rows carry no spans, so mentions are told apart by `gold.mention_numbers`; there are never more of a text than the
post has room for.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sake_ray.data import gold
from sake_ray.data.json_files import parse_json
from sake_ray.data.problems import DataError, FieldError, Problem, ProblemLog
from sake_ray.types import Box

COLUMNS = ("prompt", "images", "reward_model", "data_source", "extra_info")
_NEEDED = ("prompt", "images", "reward_model")
MAX_PARQUET_ROWS = 1_000_000
MAX_IMAGE_BYTES = 32 * 1024 * 1024
_BATCH_ROWS = 64
_IMAGE_MARK = "<image>"
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM")
_BLANKS = re.compile(r"\s+")


def parquet_posts(path: Path, task: str, log: ProblemLog) -> Iterator[gold.GoldPost]:
    """The good posts of a release parquet, in order; `line` is the 1-based row; bad ones go to `log`.

    Raises:
        DataError: the file is missing, is no parquet or lacks a column, or `log` stops at the first problem.
    """
    for number, row in _rows(path):
        try:
            yield _post(row, task, str(path), number)
        except FieldError as error:
            log.add(Problem(str(path), number, error.field, error.message))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    from pyarrow import ArrowException  # lazily: pyarrow takes a while to import
    from pyarrow.parquet import ParquetFile

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            missing = [column for column in _NEEDED if column not in names]
            if missing:
                raise DataError(f"{path}: no column {', '.join(missing)}; it has {', '.join(sorted(names))}")
            if file.metadata.num_rows > MAX_PARQUET_ROWS:
                raise DataError(f"{path}: more than {MAX_PARQUET_ROWS} rows; split the file")
            number = 0
            columns = [column for column in COLUMNS if column in names]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error


def _post(row: dict[str, Any], task: str, file: str, number: int) -> gold.GoldPost:
    text = _text(row["prompt"])
    extra = row.get("extra_info")
    extra = extra if isinstance(extra, dict) else {}
    name, data = _image(row["images"], extra)
    image_name, post_id = gold.image_name_and_id(name, "images[0].path")
    size = gold.check_size(extra.get("image_size"), "extra_info.image_size")
    entities = gold.entities_of(_gold_rows(row["reward_model"], task, text, size))
    return gold.GoldPost(file, number, post_id, image_name, size, text, entities, data)


def _text(prompt: Any) -> str:
    if not isinstance(prompt, list) or not all(isinstance(message, dict) for message in prompt):
        raise FieldError("prompt", "is not a list of chat messages")
    users = [message for message in prompt if message.get("role") == "user"]
    if len(users) != 1 or not isinstance(users[0].get("content"), str):
        raise FieldError("prompt", f"{len(users)} user messages with text; one is expected")
    content: str = users[0]["content"]
    text = " ".join(content.rpartition(_IMAGE_MARK)[2].split())
    text = text or " ".join(content.replace(_IMAGE_MARK, " ").split())
    if not text:
        raise FieldError("prompt", "the user message holds no post")
    if len(text) > gold.MAX_TEXT_CHARS:
        raise FieldError("prompt", f"the post is longer than {gold.MAX_TEXT_CHARS} characters")
    return text


def _image(images: Any, extra: dict[str, Any]) -> tuple[str, bytes | None]:
    """The picture's name and, where the row carries it, its bytes."""
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], dict):
        raise FieldError("images", "is not a list with one {path, bytes}")
    path, data = images[0].get("path"), images[0].get("bytes")
    if path is not None and not isinstance(path, str):
        raise FieldError("images[0].path", f"is {type(path).__name__}, not text")
    if path:
        name = re.split(r"[/\\]", path)[-1]
    elif data is not None and extra.get("index") is not None:
        name = str(extra["index"])
    else:
        raise FieldError("images[0].path", "is missing, and so are the bytes or extra_info.index that could stand in")
    return name, None if data is None else _image_bytes(data)


def _image_bytes(data: Any) -> bytes:
    field = "images[0].bytes"
    if not isinstance(data, (bytes, str)) or not 0 < len(data) <= 2 * MAX_IMAGE_BYTES:
        raise FieldError(field, f"must be 1 to {MAX_IMAGE_BYTES} bytes, or base64 text")
    if isinstance(data, bytes) and data.startswith(_PICTURE_STARTS):
        picture = data
    else:
        # Base64 comes as text, or as text in a binary column; a data: URL's head is dropped.
        encoded = data if isinstance(data, str) else data.decode("latin-1")
        try:
            picture = base64.b64decode(encoded.rpartition("base64,")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise FieldError(field, f"neither a picture nor base64 text: {error}") from error
    if not 0 < len(picture) <= MAX_IMAGE_BYTES:
        raise FieldError(field, f"{len(picture)} bytes; a picture has 1 to {MAX_IMAGE_BYTES}")
    return picture


def _gold_rows(reward_model: Any, task: str, text: str, size: gold.Size | None) -> list[gold.GoldRow]:
    field = "reward_model.ground_truth"
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    rows = parse_json(truth, field=field) if isinstance(truth, str) else truth
    if not isinstance(rows, list):
        raise FieldError(field, "is not a JSON list of {entity, type, bbox}")
    if len(rows) > gold.MAX_ROWS:
        raise FieldError(field, f"{len(rows)} rows are more than the {gold.MAX_ROWS} a post may have")
    checked: list[tuple[str, str, str, Box | None]] = []
    for at, row in enumerate(rows):
        where = f"{field}[{at}]"
        if not isinstance(row, dict):
            raise FieldError(where, f"is {type(row).__name__}, not an object")
        entity = gold.need(row, "entity", f"{where}.")
        if not isinstance(entity, str) or not entity.strip() or _plain(entity) not in text:
            raise FieldError(f"{where}.entity", f"{entity!r:.80} does not occur in the post {text!r:.200}")
        kind = gold.check_type(gold.need(row, "type", f"{where}."), task, f"{where}.type")
        box = gold.check_box(gold.need(row, "bbox", f"{where}."), size, f"{where}.bbox")
        checked.append((where, _plain(entity), kind, box))
    mentions = gold.mention_numbers((name, kind, box) for _, name, kind, box in checked)
    names = dict(zip(mentions, (name for _, name, _, _ in checked), strict=True))
    for name, count in Counter(names.values()).items():
        if count > text.count(name):
            raise FieldError(field, f"marks {count} mentions of {name!r:.80}, the post {text!r:.200} has fewer")
    # The span only has to tell mentions apart here; rows say no positions.
    return [
        gold.GoldRow(where, (mention, mention), name, kind, gold.check_coarse(None, kind, task), box)
        for mention, (where, name, kind, box) in zip(mentions, checked, strict=True)
    ]


def _plain(text: str) -> str:
    return _BLANKS.sub(" ", text).strip()
