"""Gold, predictions, tags and the training split, read from files and put together as records.

Gold: a JSON list or JSON lines in the released form, or a data set's folder and split in any layout the project reads.
Predictions: a JSON list or JSON lines of `{"img_id", "pre_entities": [{"phrase", "entity_type", "region_box"}]}` or of
the release's `{"img_id", "prediction": [{"entity", "type", "box2d"}]}`; boxes are in original pixels, as the released
evaluator takes them. A post that carries `image_size_info` (`[{"original_size": [w, h], "processed_size": [w, h]}]`)
has them in processed pixels, and they are scaled and truncated. `sample` (from 0) tells several answers to one post
apart.

Knows nothing of scores. Always holds: posts are matched by `img_id` (with or without a picture's suffix), in any
order; a post that only one side has is refused or counted, never left out silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rewards.composite import Sizes, gold_of, to_original
from rewards.entities import Claim
from rewards.evaluation.records import GoldEntity, PostRecord
from rewards.fields import list_at, object_at
from rewards.pairs import form
from rewards.protocols import EntityRow, entities_of_rows, read_rows
from sake_ray.coldstart.tag_files import PostTags
from sake_ray.data.fmnerg import FMNERG_TYPES
from sake_ray.data.gold import check_difficulty, check_seen, check_size, image_name_and_id
from sake_ray.data.json_files import read_values
from sake_ray.data.loading import load_split
from sake_ray.data.problems import DataError, FieldError
from sake_ray.types import Example

_NAMED = 5  # posts that a refusal names
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class TrainIndex:
    """What the training split has: surface forms (as scoring compares them), types, and the two together."""

    forms: frozenset[str]
    types: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    source: str = ""

    @classmethod
    def of(cls, entities: Iterable[tuple[str, str]], source: str = "") -> TrainIndex:
        """An index of (text, type) of every training entity."""
        pairs = frozenset((form(text), kind.strip()) for text, kind in entities)
        return cls(frozenset(text for text, _ in pairs), frozenset(kind for _, kind in pairs), pairs, source)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a predictions file says of one post, once a sample."""

    samples: dict[int, tuple[Claim, ...]] = field(default_factory=dict)
    where: str = ""


def read_gold(path: Path, *, task: str, split: str = "test", images: Path | None = None) -> list[PostRecord]:
    """Posts of gold, not answered yet, in the file's order.

    Args:
        path: a file in the released form, or a data set's folder.
        task: "gmner" or "fmnerg"; a folder's types are checked against it.
        split: which split of a folder.
        images: where the pictures lie; only their names are looked for, for the pages.

    Raises:
        DataError: it cannot be read, a field is wrong, or a post occurs twice; says where.
    """
    if path.is_dir():
        found = load_split(path, split, task=task, images="standin", image_dir=images)
        return [record_of_example(example, images or path / "images") for example in found.examples]
    records: dict[str, PostRecord] = {}
    for line, value in read_values(path):
        try:
            record = _gold_post(value, images or path.parent / "images")
            if record.id in records:
                raise FieldError("img_id", f"{record.id!r:.60} occurs twice")
        except FieldError as error:
            raise DataError(f"{path}:{line}: {error}") from error
        records[record.id] = record
    if not records:
        raise DataError(f"{path}: holds no posts")
    return list(records.values())


def record_of_example(example: Example, images: Path | None = None) -> PostRecord:
    """A post as the trainer has it, not answered yet; a stand-in's size is not the picture's."""
    gold = tuple(
        GoldEntity(e.text, e.type, gold_of(e).boxes, e.coarse_type, e.difficulty, seen=e.seen) for e in example.entities
    )
    image, drawn = example.image, example.image.standin is not None
    path = _picture(Path(image.path).name, images) if drawn else image.path
    return PostRecord(example.id, example.text, gold, (), path, None if drawn else (image.width, image.height))


def read_train(path: Path, *, task: str) -> TrainIndex:
    """The index of a training split, from a file or a data set's folder.

    Raises:
        DataError: as `read_gold`.
    """
    posts = read_gold(path, task=task, split="train")
    return TrainIndex.of(((entity.text, entity.type) for post in posts for entity in post.gold), str(path))


def read_predictions(path: Path, *, malformed: str = "stop") -> tuple[dict[str, Answers], int]:
    """What was answered, by post, and how many malformed entities were left out.

    `malformed` "drop" leaves out entities that have no text, type or box of the right form, as the released
    evaluator does.

    Raises:
        DataError: it cannot be read or a field is wrong; says where.
    """
    answers: dict[str, Answers] = {}
    dropped = 0
    for line, value in read_values(path):
        try:
            name, sample, claims, left_out = _prediction(value, drop=malformed == "drop")
            post = answers.setdefault(name, Answers(where=f"{path}:{line}"))
            if sample in post.samples:
                hint = 'number several answers to one post with "sample"'
                raise FieldError("img_id", f"{name!r:.60} occurs twice ({post.where}); {hint}")
        except FieldError as error:
            raise DataError(f"{path}:{line}: {error}") from error
        post.samples[sample] = claims
        dropped += left_out
    return answers, dropped


def join(gold: Sequence[PostRecord], answers: Mapping[str, Answers], *, missing: str = "stop") -> list[PostRecord]:
    """Gold with its answers, in gold's order, a record each sample.

    `missing` "empty" makes a post without an answer an empty answer: as many empty ones as the others have.

    Raises:
        DataError: a post is missing under "stop", or answers are of posts that gold does not have; names some.
    """
    known = {post.id for post in gold}
    extra = [name for name in answers if name not in known]
    absent = [post.id for post in gold if post.id not in answers]
    if extra:
        raise DataError(
            f"{len(extra)} of {len(answers)} predicted posts are not in gold ({_some(extra)}): take them out, or give "
            "their gold"
        )
    if absent and missing != "empty":
        raise DataError(
            f"{len(absent)} of {len(gold)} gold posts have no prediction ({_some(absent)}): answer them with an empty "
            "list, or count them as empty answers with missing=empty"
        )
    counts = {tuple(sorted(post.samples)) for post in answers.values()} or {(0,)}
    numbers = counts.pop()
    if counts or numbers != tuple(range(len(numbers))):
        raise DataError("posts have different samples; every post needs the same number, numbered from 0")
    empty = Answers(dict.fromkeys(numbers, ()))
    return [
        replace(post, claims=answers.get(post.id, empty).samples[number], sample=number)
        for post in gold
        for number in numbers
    ]


def merge_gold(records: Sequence[PostRecord], gold: Sequence[PostRecord], *, missing: str = "stop") -> list[PostRecord]:
    """A run's records with the gold of a file in the place of their own, in gold's order.

    Raises:
        DataError: as `join`.
    """
    by_id: dict[str, list[PostRecord]] = {}
    for record in records:
        by_id.setdefault(record.id, []).append(record)
    answers = {name: Answers({one.sample: one.claims for one in found}) for name, found in by_id.items()}
    joined = join(gold, answers, missing=missing)
    of = {(record.id, record.sample): record for record in records}
    return [
        replace(of[one.id, one.sample], gold=one.gold, extra={**of[one.id, one.sample].extra, **one.extra})
        if (one.id, one.sample) in of
        else one
        for one in joined
    ]


def with_tags(records: Sequence[PostRecord], tags: Mapping[str, PostTags], source: str) -> list[PostRecord]:
    """Records whose gold has the difficulty and the hits of a tags file; those without tags stay as they are.

    Raises:
        DataError: no post has tags, or they are of other entities than the post's.
    """
    if not any(record.id in tags for record in records):
        raise DataError(f"{source}: none of its {len(tags)} posts is among those evaluated")
    return [_tagged(record, tags[record.id], source) if record.id in tags else record for record in records]


def _tagged(record: PostRecord, post: PostTags, source: str) -> PostRecord:
    ours = tuple((entity.text, entity.type) for entity in record.gold)
    if ours != post.entities:
        raise DataError(
            f"{source}: the tags of post {record.id} are of {list(post.entities)!r:.120}, gold has {list(ours)!r:.120}"
        )
    gold = tuple(
        replace(entity, difficulty=tag.difficulty, hits=tag.hits, samples=tag.n)
        for entity, tag in zip(record.gold, post.tags, strict=True)
    )
    return replace(record, gold=gold)


# --- gold ------------------------------------------------------------------------------------------------


def _gold_post(value: object, images: Path) -> PostRecord:
    post = object_at(value, "post")
    picture, post_id = _image_id(post)
    rows = read_rows(post, "gt_entities", "post")
    notes = [_notes(item, f"gt_entities[{at}]") for at, item in enumerate(post["gt_entities"])]
    of_name = {(row.text, row.type): note for row, note in zip(rows, notes, strict=True)}
    gold = tuple(
        GoldEntity(one.text, one.type, one.boxes, FMNERG_TYPES.get(one.type, ""), **of_name[one.text, one.type])
        for one in entities_of_rows(rows)
    )
    tokens = post.get("tokens", post.get("text", ""))
    text = " ".join(map(str, tokens)) if isinstance(tokens, list) else str(tokens)
    size = check_size(post.get("image_size"))
    return PostRecord(post_id, text, gold, (), _picture(picture, images), size, extra=_row_order(rows, gold))


def _notes(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {
        "difficulty": check_difficulty(item.get("difficulty"), f"{where}.difficulty"),
        "seen": check_seen(item.get("seen"), f"{where}.seen"),
    }


def _row_order(rows: Sequence[EntityRow], gold: Sequence[GoldEntity]) -> dict[str, Any]:
    """The rows themselves, where the released protocol might not get them back from the entities."""
    regular = [(one.text, one.type, box) for one in gold for box in (one.boxes or (None,))]
    if regular == [(row.text, row.type, row.box) for row in rows]:
        return {}
    return {"gold_rows": [[row.text, row.type, list(row.box or ())] for row in rows]}


def _image_id(post: Mapping[str, Any]) -> tuple[str, str]:
    name = post.get("img_id")
    if not isinstance(name, str):
        raise FieldError("img_id", f"{name!r:.60} is not a post's id")
    return image_name_and_id(name, "img_id")


def _picture(name: str, images: Path | None) -> str:
    path = None if images is None else images / name
    return str(path.resolve()) if path is not None and path.is_file() else ""


# --- predictions -----------------------------------------------------------------------------------------


def _prediction(value: object, *, drop: bool) -> tuple[str, int, tuple[Claim, ...], int]:
    post = object_at(value, "post")
    _, name = _image_id(post)
    key = "pre_entities" if "pre_entities" in post else "prediction"
    items = list_at(post.get(key), key, _MOST)
    if key == "prediction":
        items = [_as_row(item) for item in items]
    rows: list[EntityRow] = []
    dropped = 0
    for at, item in enumerate(items):
        try:
            rows += read_rows({key: [item]}, key, "post")
        except FieldError as error:
            if not drop:
                hint = "malformed=drop leaves such entities out, as the released evaluator does"
                raise FieldError(f"{key}[{at}]", f"{error.message}; {hint}") from error
            dropped += 1
    sample = post.get("sample", 0)
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise FieldError("sample", f"{sample!r:.40} is not a number from 0")
    return name, sample, tuple(to_original([row.claim for row in rows], _sizes(post))), dropped


def _as_row(item: object) -> object:
    if not isinstance(item, dict):
        return item
    return {"phrase": item.get("entity"), "entity_type": item.get("type"), "region_box": item.get("box2d")}


def _sizes(post: Mapping[str, Any]) -> Sizes | None:
    info = post.get("image_size_info")
    if info is None:
        return None
    entry = object_at(info[0] if isinstance(info, list) and info else info, "image_size_info")
    original = check_size(entry.get("original_size"), "image_size_info.original_size")
    processed = check_size(entry.get("processed_size"), "image_size_info.processed_size")
    if original is None or processed is None:
        raise FieldError("image_size_info", "must have original_size and processed_size")
    return Sizes(processed, original)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
