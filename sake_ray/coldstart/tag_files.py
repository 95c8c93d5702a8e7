"""The files of stage 1a: sampled answers, and the tags made of them.

Samples (read and written): a JSON list or JSON lines of `{task, n, posts: [{gold, samples}]}`; `gold` has the
released gold's rows (`phrase`, `entity_type`, `region_box`, one row a box), a sample is a list of
`{entity, type, box2d}` in the same pixels, or null for an answer that did not parse. Ours hold one post an element
and add `img_id`.
Tags: JSON lines of `{img_id, n, malformed, entities: [{entity, type, hit_text, hit_image, hits, is_search,
difficulty}]}`.

Knows nothing of models. Always holds: gold that breaks its form is an error with file, element and field; a sample
that does is malformed, counted and hits nothing; tags are taken only by the posts they were made for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sake_ray.coldstart.difficulty import EntityTag, Guess, Sample, tag_entity
from sake_ray.coldstart.teaching import Need
from sake_ray.data.boxes import Quad
from sake_ray.data.json_files import MAX_FILE_BYTES, read_values
from sake_ray.data.problems import DataError, FieldError
from sake_ray.types import Difficulty, Example

MAX_SAMPLES = 1_000
MAX_GUESSES = 1_000
_KEYS = ("hit_text", "hit_image", "hits")


@dataclass(frozen=True, slots=True)
class GoldEntry:
    """One gold row of a samples file."""

    text: str
    type: str
    boxes: tuple[Quad, ...]


@dataclass(frozen=True, slots=True)
class SampledPost:
    """A post of a samples file: its gold rows in order, and its answers."""

    id: str
    task: str
    n: int
    gold: tuple[GoldEntry, ...]
    samples: tuple[Sample, ...]

    @property
    def malformed(self) -> int:
        """How many of its answers did not parse."""
        return sum(sample is None for sample in self.samples)

    def tags(self) -> tuple[EntityTag, ...]:
        """One tag a gold row."""
        return tuple(tag_entity(row.text, row.type, row.boxes, self.samples, self.n) for row in self.gold)


def read_samples(path: Path) -> Iterator[SampledPost]:
    """The posts of a samples file, in order.

    Raises:
        DataError: the file cannot be read, or an element's gold or form is wrong; says where.
    """
    for index, (line, value) in enumerate(read_values(path, max_value_chars=MAX_FILE_BYTES)):
        try:
            yield from read_element(value)
        except FieldError as error:
            raise DataError(f"{path}:{line}: element {index}: {error}") from error


def sample_row(task: str, n: int, example: Example, samples: Sequence[Sample]) -> dict[str, Any]:
    """A post's answers as one element of a samples file."""
    gold = [
        {"phrase": entity.text, "entity_type": entity.type, "region_box": box.as_list() if box else []}
        for entity in example.entities
        for box in (entity.boxes or (None,))
    ]
    said = [
        None if sample is None else [
            {"entity": guess.text, "type": guess.type, "box2d": list(guess.box) if guess.box else []}
            for guess in sample
        ]
        for sample in samples
    ]  # fmt: skip
    return {"task": task, "n": n, "posts": [{"img_id": example.id, "gold": gold, "samples": said}]}


def tag_row(example: Example, tags: Sequence[EntityTag], *, n: int, malformed: int) -> dict[str, Any]:
    """A post's tags as a line of a tags file."""
    entities = [
        {
            "entity": entity.text, "type": entity.type, "hit_text": tag.hit_text, "hit_image": tag.hit_image,
            "hits": tag.hits, "is_search": str(tag.is_search), "difficulty": str(tag.difficulty),
        }
        for entity, tag in zip(example.entities, tags, strict=True)
    ]  # fmt: skip
    return {"img_id": example.id, "n": n, "malformed": malformed, "entities": entities}


@dataclass(frozen=True, slots=True)
class PostTags:
    """A line of a tags file: the entities it is about, and their tags."""

    id: str
    entities: tuple[tuple[str, str], ...]
    tags: tuple[EntityTag, ...]


def read_tags(path: Path) -> dict[str, PostTags]:
    """The tags of a file by post id.

    Raises:
        DataError: the file cannot be read or a line is wrong; says where.
    """
    found: dict[str, PostTags] = {}
    for line, value in read_values(path):
        try:
            post = _tags(value)
        except FieldError as error:
            raise DataError(f"{path}:{line}: {error}") from error
        if post.id in found:
            raise DataError(f"{path}:{line}: img_id: {post.id!r} occurs twice")
        found[post.id] = post
    if not found:
        raise DataError(f"{path}: holds no tags")
    return found


def with_difficulty(
    examples: Sequence[Example], tags: Mapping[str, PostTags], source: str, known_by: str = "whole"
) -> tuple[Example, ...]:
    """The tagged ones of the examples, each entity with the difficulty its tag says (`EntityTag.difficulty_by`).

    Raises:
        DataError: no post has tags, or tags are of another text or type than the post's entities.
    """
    tagged = [example for example in examples if example.id in tags]
    if not tagged:
        raise DataError(f"{source}: none of its {len(tags)} posts is among the {len(examples)} training posts")
    return tuple(
        replace(
            example,
            entities=tuple(
                replace(entity, difficulty=tag.difficulty_by(known_by))
                for entity, tag in zip(example.entities, tags_of(example, tags, source), strict=True)
            ),
        )
        for example in tagged
    )


def tags_of(example: Example, tags: Mapping[str, PostTags], source: str) -> tuple[EntityTag, ...]:
    """One tag an entity of the example.

    Raises:
        DataError: they are of another text or type than its entities.
    """
    post = tags[example.id]
    ours = tuple((entity.text, entity.type) for entity in example.entities)
    if post.entities != ours:
        raise DataError(
            f"{source}: the tags of post {example.id} are of {list(post.entities)!r:.120}, the post has "
            f"{list(ours)!r:.120}; they were made for other data, make them anew (launch/tag_difficulty.py)"
        )
    return post.tags


# --- reading, piece by piece -----------------------------------------------------------------------------


def read_element(value: Any) -> Iterator[SampledPost]:
    """The posts of one element of a samples file.

    Raises:
        FieldError: its gold or form is wrong.
    """
    row = _object(value, "element")
    task, n, posts = row.get("task", "gmner"), row.get("n"), row.get("posts")
    if not isinstance(task, str):
        raise FieldError("task", f"{task!r:.40} is not a string")
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_SAMPLES:
        raise FieldError("n", f"{n!r:.40} is not a number of samples (1 to {MAX_SAMPLES})")
    if not isinstance(posts, list):
        raise FieldError("posts", "is missing or not a list")
    for at, post in enumerate(posts):
        yield _post(post, f"posts[{at}]", task, n)


def _post(value: Any, where: str, task: str, n: int) -> SampledPost:
    row = _object(value, where)
    gold, samples = row.get("gold"), row.get("samples")
    if not isinstance(gold, list):
        raise FieldError(f"{where}.gold", "is missing or not a list")
    if not isinstance(samples, list) or len(samples) > MAX_SAMPLES:
        raise FieldError(f"{where}.samples", f"is missing, not a list, or longer than {MAX_SAMPLES}")
    return SampledPost(
        str(row.get("img_id", "")),
        task,
        n,
        tuple(_gold(entry, f"{where}.gold[{at}]") for at, entry in enumerate(gold)),
        tuple(_sample(sample) for sample in samples),
    )


def _gold(value: Any, where: str) -> GoldEntry:
    row = _object(value, where)
    text, kind = _string(row, "phrase", where), _string(row, "entity_type", where)
    box = row.get("region_box")
    quad = _quad(box)
    if quad is None and box != []:
        raise FieldError(f"{where}.region_box", f"{box!r:.60} is neither four numbers nor []")
    return GoldEntry(text, kind, () if quad is None else (quad,))


def _sample(value: Any) -> Sample:
    """The guesses of an answer; None for one of another form."""
    if not isinstance(value, list) or len(value) > MAX_GUESSES:
        return None
    guesses = []
    for item in value:
        if not isinstance(item, dict):
            return None
        text, kind, box = item.get("entity"), item.get("type"), item.get("box2d")
        quad = _quad(box)
        if not isinstance(text, str) or not isinstance(kind, str) or (quad is None and box != []):
            return None
        guesses.append(Guess(text, kind, quad))
    return tuple(guesses)


def _quad(value: Any) -> Quad | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(side, int | float) and not isinstance(side, bool) and abs(side) < 1e9 for side in value):
        return None
    return float(value[0]), float(value[1]), float(value[2]), float(value[3])


def _tags(value: Any) -> PostTags:
    row = _object(value, "line")
    post_id, n, entities = row.get("img_id"), row.get("n"), row.get("entities")
    if not isinstance(post_id, str) or not post_id:
        raise FieldError("img_id", f"{post_id!r:.40} is not a post's id")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise FieldError("n", f"{n!r:.40} is not a number of samples")
    if not isinstance(entities, list):
        raise FieldError("entities", "is missing or not a list")
    names, tags = [], []
    for at, entry in enumerate(entities):
        entity = _object(entry, f"entities[{at}]")
        counts = [entity.get(key) for key in _KEYS]
        for key, count in zip(_KEYS, counts, strict=True):
            if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= n:
                raise FieldError(f"entities[{at}].{key}", f"{count!r:.40} is not a count from 0 to n={n}")
        tag = EntityTag(n, int(counts[0] or 0), int(counts[1] or 0), int(counts[2] or 0))
        _check_derived(entity, tag, f"entities[{at}]")
        names.append((_string(entity, "entity", f"entities[{at}]"), _string(entity, "type", f"entities[{at}]")))
        tags.append(tag)
    return PostTags(post_id, tuple(names), tuple(tags))


def _check_derived(entity: Mapping[str, Any], tag: EntityTag, where: str) -> None:
    """The written tag and difficulty must be those its counts give; a line edited by hand may not be."""
    if tag.hits > min(tag.hit_text, tag.hit_image):
        raise FieldError(f"{where}.hits", f"{tag.hits} are more than its hit_text or hit_image")
    for name, expected in (("is_search", Need(tag.is_search)), ("difficulty", Difficulty(tag.difficulty))):
        if entity.get(name) != str(expected):
            raise FieldError(f"{where}.{name}", f"{entity.get(name)!r:.40} does not follow from its counts: {expected}")


def _string(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise FieldError(f"{where}.{key}", f"{value!r:.40} is not a string")
    return value


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise FieldError(where, f"is {type(value).__name__}, not an object")
    return value
