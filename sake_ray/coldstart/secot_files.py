"""SAKE-SeCoT on disk: a Hugging Face data set (parquet with a card) and the chat messages that SFT tools read.

    FOLDER/README.md           data set card
    FOLDER/data/train.parquet  one trajectory a row: post, gold, turns with what searches answered, chat messages
    FOLDER/messages.jsonl      {"id", "messages": [{"role", "content"}], "images": [path]}, one `<image>` a picture
    FOLDER/images/             pictures that came without a file (drawn stand-ins, bytes of a parquet)

`images` of a row holds a picture for every `<image>` of its messages, in order; a result names its pictures by their
index there. Knows nothing of tokens or models. Always holds: `read_demonstrations` gives back what `write_dataset`
was given but for entities' `seen` and pictures that the policy is not shown; a row that breaks its form, or a picture
that is not there in its size, stops with file, row and field.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sake_ray.coldstart.secot_rows import STATUSES, observation_row
from sake_ray.coldstart.teaching import Demonstration, Need, TaughtTurn
from sake_ray.data.gold import check_box
from sake_ray.data.images import ImageError, image_size, load_image
from sake_ray.data.json_files import write_lines
from sake_ray.data.problems import DataError, FieldError
from sake_ray.prompts import Part, Prompts
from sake_ray.types import Difficulty, Entity, Example, ImageRef, Observation, QueryResult, SearchKind

if TYPE_CHECKING:
    import pyarrow

PARQUET, MESSAGES, CARD, IMAGES = "data/train.parquet", "messages.jsonl", "README.md", "images"
MAX_ROWS = 1_000_000
MAX_PARQUET_BYTES = 64 * 2**30
IMAGE_MARK = "<image>"
_BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """How to write: `embedded` puts every picture's bytes into the parquet; `max_chars` bounds a result's text."""

    embedded: bool
    max_chars: int


def write_dataset(
    folder: Path, demonstrations: Sequence[Demonstration], prompts: Prompts, options: DatasetOptions, card: str
) -> None:
    """Write the folder's files; `card` is the text of the card below its header.

    Raises:
        ImageError: a picture is missing, broken or of another size; names it.
    """
    from pyarrow import Table
    from pyarrow.parquet import ParquetWriter

    (folder / PARQUET).parent.mkdir(parents=True, exist_ok=True)
    chats = [_Chat.of(demonstration, prompts, options.max_chars) for demonstration in demonstrations]
    write_lines(
        folder / MESSAGES,
        (
            {"id": taught.example.id, "messages": chat.messages, "images": [_path(ref, folder) for ref in chat.images]}
            for taught, chat in zip(demonstrations, chats, strict=True)
        ),
    )
    scratch = folder / f"{PARQUET}.unfinished"
    schema = _schema()
    with ParquetWriter(scratch, schema) as file:
        for start in range(0, len(chats), _BATCH_ROWS):  # embedded pictures of all rows would not fit into memory
            pairs = zip(demonstrations[start : start + _BATCH_ROWS], chats[start : start + _BATCH_ROWS], strict=True)
            rows = [_row(taught, chat, embedded=options.embedded) for taught, chat in pairs]
            file.write_table(Table.from_pylist(rows, schema=schema))
    os.replace(scratch, folder / PARQUET)
    (folder / CARD).write_text(_card(card, len(chats)), encoding="utf-8")


def read_demonstrations(folder: Path) -> list[Demonstration]:
    """The trajectories of a folder that `write_dataset` wrote, in order.

    Raises:
        DataError: no such data set, or a row is wrong; says where.
    """
    import pyarrow
    import pyarrow.parquet

    path = folder / PARQUET
    if not path.is_file():
        raise DataError(f"{folder}: holds no {PARQUET}; give the folder that launch/build_secot.py wrote (secot.dir)")
    if path.stat().st_size > MAX_PARQUET_BYTES:
        raise DataError(f"{path}: larger than {MAX_PARQUET_BYTES} bytes")
    found: list[Demonstration] = []
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > MAX_ROWS:
                raise DataError(f"{path}: {file.metadata.num_rows} rows are more than {MAX_ROWS}")
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    try:
                        found.append(_demonstration(row))
                    except FieldError as error:
                        raise DataError(f"{path}: row {len(found)}: {error}") from error
    # Broken pages come as OSError, broken text in them as UnicodeDecodeError.
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as parquet: {error}") from error
    return found


# --- writing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Chat:
    """A demonstration as messages, and the picture of every `<image>` in them."""

    messages: list[dict[str, str]]
    images: list[ImageRef]

    @classmethod
    def of(cls, demonstration: Demonstration, prompts: Prompts, max_chars: int) -> _Chat:
        example = demonstration.example
        chat = cls([], [])
        chat._user(prompts.first_turn(example))
        for turn in demonstration.turns:
            chat.messages.append({"role": "assistant", "content": _unmarked(turn.text)})
            if turn.observation is not None:
                chat._user(prompts.search_turn(example, turn.observation, max_chars))
        return chat

    def _user(self, parts: Sequence[Part]) -> None:
        self.images.extend(part for part in parts if isinstance(part, ImageRef))
        content = "".join(IMAGE_MARK if isinstance(part, ImageRef) else _unmarked(part) for part in parts)
        self.messages.append({"role": "user", "content": content})


def _unmarked(text: str) -> str:
    """The text without words that would stand for a picture."""
    return text.replace(IMAGE_MARK, "< image >")


def _row(demonstration: Demonstration, chat: _Chat, *, embedded: bool) -> dict[str, Any]:
    example = demonstration.example
    entities = [
        {
            "text": entity.text, "type": entity.type, "coarse_type": entity.coarse_type,
            "difficulty": str(entity.difficulty or ""), "need": str(need),
            "boxes": [box.as_list() for box in entity.boxes],
        }
        for entity, need in zip(example.entities, demonstration.needs, strict=True)
    ]  # fmt: skip
    return {
        "id": example.id,
        "text": example.text,
        "entities": entities,
        "turns": [_turn_row(turn, chat.images) for turn in demonstration.turns],
        "messages": chat.messages,
        "images": [_cell(ref, embedded=embedded) for ref in chat.images],
        "image_sizes": [[ref.width, ref.height] for ref in chat.images],
        "teacher": demonstration.teacher,
        "attempts": demonstration.attempts,
    }


def _turn_row(turn: TaughtTurn, images: Sequence[ImageRef]) -> dict[str, Any]:
    row = observation_row(turn.observation)
    results = turn.observation.results if turn.observation is not None else ()
    for result, cell in zip(results, row["results"], strict=True):
        # Only what the policy was shown has a place among the pictures.
        shown = turn.observation is not None and turn.observation.kind is SearchKind.IMAGE
        shown = shown and result.status == "success"
        # Text from the web may hold half a surrogate pair, which parquet cannot; the policy is never shown one.
        cell["query"], cell["text"] = (cell[key].encode("utf-8", "ignore").decode() for key in ("query", "text"))
        cell["images"] = [images.index(ref) for ref in result.images if ref in images] if shown else []
    return {"text": turn.text, **row}


def _cell(ref: ImageRef, *, embedded: bool) -> dict[str, Any]:
    """A picture as `datasets` stores it."""
    if ref.data is not None or ref.standin is not None:
        return {"path": None, "bytes": _bytes(ref)}
    path = Path(ref.path).resolve()
    if (found := image_size(path)) != (ref.width, ref.height):
        raise ImageError(f"{path}: {found[0]} x {found[1]} pixels, but its reference says {ref.width} x {ref.height}")
    return {"path": None, "bytes": path.read_bytes()} if embedded else {"path": str(path), "bytes": None}


def _path(ref: ImageRef, folder: Path) -> str:
    """A path to the picture for the messages file: its own, or one below the folder."""
    if ref.data is None and ref.standin is None:
        return str(Path(ref.path).resolve())
    content = _bytes(ref)
    name = f"{IMAGES}/{hashlib.sha256(content).hexdigest()[:24]}.png"
    if not (folder / name).exists():
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        scratch = folder / f"{name}.tmp"
        scratch.write_bytes(content)
        os.replace(scratch, folder / name)
    return name


def _bytes(ref: ImageRef) -> bytes:
    buffer = io.BytesIO()
    load_image(ref).save(buffer, "PNG")
    return buffer.getvalue()


def _schema() -> pyarrow.Schema:
    """The columns, with the note that tells `datasets` which of them are pictures (its own import brings torch)."""
    import pyarrow

    text, number, many = pyarrow.string(), pyarrow.int64(), pyarrow.list_
    picture = pyarrow.struct({"bytes": pyarrow.binary(), "path": text})
    entity = dict.fromkeys(("text", "type", "coarse_type", "difficulty", "need"), text)
    result = {"query": text, "status": text, "text": text, "images": many(number)}
    columns = {
        "id": text,
        "text": text,
        "entities": many(pyarrow.struct({**entity, "boxes": many(many(number))})),
        "turns": many(pyarrow.struct({"text": text, "kind": text, "results": many(pyarrow.struct(result))})),
        "messages": many(pyarrow.struct({"role": text, "content": text})),
        "images": many(picture),
        "image_sizes": many(many(number)),
        "teacher": text,
        "attempts": number,
    }

    def feature(kind: Any) -> Any:
        if kind == picture:
            return {"_type": "Image"}
        if pyarrow.types.is_list(kind):
            return [feature(kind.value_type)]
        if pyarrow.types.is_struct(kind):
            return {field.name: feature(field.type) for field in kind}
        return {"dtype": str(kind), "_type": "Value"}

    note = {"info": {"features": {name: feature(kind) for name, kind in columns.items()}}}
    return pyarrow.schema(columns, metadata={"huggingface": json.dumps(note)})


_CARD = """---
pretty_name: SAKE-SeCoT
task_categories:
- image-text-to-text
tags:
- tool-use
- named-entity-recognition
configs:
- config_name: default
  data_files:
  - split: train
    path: {parquet}
---

# SAKE-SeCoT

{rows} multi-turn trajectories with really executed searches, for supervised fine-tuning: who is in a post, of which
type and where, and what to search for when that is not known. `messages` and `images` are a chat with one `<image>` a
picture; `turns` has the same with the searches' results as data; `entities` is gold, boxes in pixels of the original.

{text}
"""


def _card(text: str, rows: int) -> str:
    return _CARD.format(parquet=PARQUET, rows=rows, text=text)


# --- reading ---------------------------------------------------------------------------------------------


def _demonstration(row: Mapping[str, Any]) -> Demonstration:
    post = _text(row, "id")
    images = _images(row, post)
    if not images:
        raise FieldError("images", "is empty; the first one is the post's picture")
    size = (images[0].width, images[0].height)
    entities, needs = [], []
    for at, cell in enumerate(_list(row, "entities")):
        where = f"entities[{at}]"
        boxes = [check_box(box, size, f"{where}.boxes") for box in _list(cell, "boxes", where)]
        try:
            needs.append(Need(cell["need"]))
            difficulty = Difficulty(cell["difficulty"]) if cell["difficulty"] else None
        except (KeyError, ValueError) as error:
            raise FieldError(where, f"has no known need or difficulty ({error})") from error
        known = tuple(box for box in boxes if box is not None)
        text, kind = _text(cell, "text", where), _text(cell, "type", where)
        entities.append(Entity(text, kind, known, str(cell.get("coarse_type") or ""), difficulty))
    turns = tuple(_turn(cell, f"turns[{at}]", images) for at, cell in enumerate(_list(row, "turns")))
    if not turns:
        raise FieldError("turns", "is empty")
    example = Example(post, _text(row, "text"), images[0], tuple(entities))
    attempts = row.get("attempts")
    return Demonstration(
        example, tuple(needs), turns, str(row.get("teacher") or ""), attempts if isinstance(attempts, int) else 1
    )


def _images(row: Mapping[str, Any], post: str) -> list[ImageRef]:
    cells, sizes = _list(row, "images"), _list(row, "image_sizes")
    if len(cells) != len(sizes):
        raise FieldError("image_sizes", f"{len(sizes)} sizes for {len(cells)} images")
    refs: list[ImageRef] = []
    for at, (cell, size) in enumerate(zip(cells, sizes, strict=True)):
        where = f"images[{at}]"
        if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise FieldError(f"image_sizes[{at}]", f"{size!r:.40} is not [width, height]")
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, None)
        if isinstance(data, bytes):
            ref = ImageRef(f"{post}#{hashlib.sha256(data).hexdigest()[:12]}", size[0], size[1], data=data)
            _check_size(data, ref, where)
        elif isinstance(path, str) and Path(path).is_absolute() and ".." not in PurePosixPath(path).parts:
            ref = ImageRef(path, size[0], size[1])
            if not Path(path).is_file():
                raise FieldError(where, f"{path} does not exist; build with secot.images=embedded to move the data set")
            _check_size(Path(path), ref, where)
        else:
            raise FieldError(where, "has neither bytes nor an absolute path")
        refs.append(next((same for same in refs if same == ref), ref))  # a picture shown again is held once
    return refs


def _check_size(source: bytes | Path, ref: ImageRef, where: str) -> None:
    try:
        found = image_size(source, name=ref.path)
    except ImageError as error:
        raise FieldError(where, str(error)) from error
    if found != (ref.width, ref.height):
        raise FieldError(where, f"is {found[0]} x {found[1]} pixels, image_sizes says {ref.width} x {ref.height}")


def _turn(cell: Any, where: str, images: Sequence[ImageRef]) -> TaughtTurn:
    text, kind = _text(cell, "text", where), _text(cell, "kind", where)
    if not kind:
        return TaughtTurn(text)
    if kind not in set(SearchKind):
        raise FieldError(f"{where}.kind", f"{kind!r:.40} is no kind of search")
    results = []
    for at, result in enumerate(_list(cell, "results", where)):
        inner = f"{where}.results[{at}]"
        indices = _list(result, "images", inner)
        if not all(isinstance(index, int) and 0 <= index < len(images) for index in indices):
            raise FieldError(f"{inner}.images", f"{indices!r:.60} are not indices into the row's images")
        query, status, told = (_text(result, key, inner) for key in ("query", "status", "text"))
        if status not in STATUSES:
            raise FieldError(f"{inner}.status", f"{status!r:.40} is not one of {', '.join(STATUSES)}")
        results.append(QueryResult(query, status, told, tuple(images[index] for index in indices)))
    return TaughtTurn(text, Observation(SearchKind(kind), tuple(results)))


def _text(row: Any, key: str, where: str = "") -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise FieldError(f"{where}.{key}" if where else key, f"{value!r:.40} is not a string")
    return value


def _list(row: Any, key: str, where: str = "") -> list[Any]:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, list):
        raise FieldError(f"{where}.{key}" if where else key, f"{value!r:.40} is not a list")
    return value
