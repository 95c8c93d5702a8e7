"""From checked posts to `Example`: picks the subset, finds or stands in for the pictures, counts.

Knows nothing of file formats. Always holds: an `Example` has a picture at its true size that decodes whole (or a
stand-in) and that a model can be shown, every gold box lies inside it, and its id is unique in the file; ids never
lead out of the picture folder.

Every kept picture is decoded here, in threads: found damaged in the middle of a run, it would stop the run, and stop
it again whenever that is resumed. That takes about 4 ms of one core for a picture of 600 x 450.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sake_ray.data.gold import GoldPost, Size, check_inside
from sake_ray.data.images import ImageError, check_shape, decoded_size
from sake_ray.data.problems import DataError, FieldError, LoadResult, OnBad, Problem, ProblemLog
from sake_ray.data.twitter import SUBSETS, entity_types, subset_of
from sake_ray.types import Example, ImageRef

Images = Literal["files", "standin"]

STANDIN_SIZE: Size = (640, 480)
"""Size of a stand-in whose picture's size is not recorded, grown where gold boxes need more room."""

_LISTED = 20  # problems written to the log; all of them are in the result
_AT_ONCE = 64  # posts whose pictures are looked at together
_MAX_THREADS = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a split; the names are those of the `data.` config section.

    `image_dir` None means the folder `images` beside the data; `max_examples` 0 means all.
    """

    task: str = "gmner"
    subset: str = "all"
    images: Images = "files"
    image_dir: Path | None = None
    on_bad: OnBad = "stop"
    max_examples: int = 0

    def __post_init__(self) -> None:
        entity_types(self.task)
        if self.subset not in SUBSETS:
            raise DataError(f"data.subset={self.subset!r} is not one of {', '.join(SUBSETS)}")
        if self.images not in get_args(Images):
            raise DataError(f"data.images={self.images!r} is not one of {', '.join(get_args(Images))}")
        if self.max_examples < 0:
            raise DataError(f"data.max_examples={self.max_examples} must be 0 (all) or more")


def to_examples(
    posts: Iterable[GoldPost], log: ProblemLog, options: ReadOptions, *, source: Path, image_dir: Path
) -> LoadResult:
    """Turn the posts of the file `source` into examples.

    Every post is checked; pictures are looked at only of those that may be kept.

    Raises:
        DataError: a problem under `on_bad="stop"`, no picture folder, or nothing left to use.
    """
    examples: list[Example] = []
    counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))
    wanted = _wanted(posts, log, options, counts)
    with ThreadPoolExecutor(min(_MAX_THREADS, len(os.sched_getaffinity(0)))) as pool:
        while batch := list(itertools.islice(wanted, _AT_ONCE)):
            enough = 0 < options.max_examples <= len(examples)
            images: Iterable[ImageRef | FieldError | None] = [None] * len(batch)
            if not enough:
                images = pool.map(lambda post: _try_image(post, options, image_dir), batch)
            for post, image in zip(batch, images, strict=True):
                if image is None or 0 < options.max_examples <= len(examples):
                    counts["beyond_max"] += 1
                elif isinstance(image, FieldError):
                    log.add(Problem(post.file, post.line, image.field, image.message))
                else:
                    examples.append(Example(post.id, post.text, image, post.entities))
                    _count(counts, post, options)
    counts["kept"], counts["skipped"] = len(examples), len(log.problems)
    counts["posts"] = counts["kept"] + counts["skipped"] + counts["other_subset"] + counts["beyond_max"]
    if log.problems:
        logger.warning("%d of %d posts left out (data.on_bad=skip):", counts["skipped"], counts["posts"])
        for problem in log.problems[:_LISTED]:
            logger.warning("  %s", problem)
        if len(log.problems) > _LISTED:
            logger.warning("  and %d more", len(log.problems) - _LISTED)
    if not examples:
        first = f"; the first problem: {log.problems[0]}" if log.problems else ""
        read = f"{counts['posts']} posts read, {counts['other_subset']} outside data.subset={options.subset}"
        raise DataError(f"{source}: no post to use ({read}){first}")
    return LoadResult(tuple(examples), tuple(log.problems), dict(counts))


def _wanted(
    posts: Iterable[GoldPost], log: ProblemLog, options: ReadOptions, counts: Counter[str]
) -> Iterator[GoldPost]:
    """The posts of the subset, each id once."""
    seen: dict[str, int] = {}
    for post in posts:
        if post.id in seen:
            log.add(Problem(post.file, post.line, "img_id", f"{post.id!r} was on line {seen[post.id]} already"))
            continue
        seen[post.id] = post.line
        if options.subset != "all" and subset_of(post.id) != options.subset:
            counts["other_subset"] += 1
        else:
            yield post


_COUNTED = (
    "posts",
    "kept",
    "skipped",
    "other_subset",
    "beyond_max",
    "entities",
    "boxes",
    "without_size",
    "boxes_unchecked",
)


def _count(counts: Counter[str], post: GoldPost, options: ReadOptions) -> None:
    boxes = sum(len(entity.boxes) for entity in post.entities)
    counts["entities"] += len(post.entities)
    counts["boxes"] += boxes
    if post.size is None:
        counts["without_size"] += 1
        counts["boxes_unchecked"] += boxes if options.images == "standin" else 0


def _try_image(post: GoldPost, options: ReadOptions, image_dir: Path) -> ImageRef | FieldError:
    """`_image`, its refusal as a value: a pool's results come one by one, and one bad picture must not end them."""
    try:
        return _image(post, options, image_dir)
    except FieldError as error:
        return error


def _image(post: GoldPost, options: ReadOptions, image_dir: Path) -> ImageRef:
    path = image_dir / post.image_name
    if options.images == "standin":
        return standin(post, path)
    if post.image_data is None and not path.is_file():
        if not image_dir.is_dir():
            raise DataError(f"{image_dir}: no such folder, and the pictures are needed; {_FIX}")
        raise FieldError("img_id", f"the picture {path} is missing; {_FIX}")
    try:
        size = decoded_size(path if post.image_data is None else post.image_data, name=str(path))
    except ImageError as error:
        raise FieldError("img_id", str(error)) from error
    if post.size is not None and post.size != size:
        recorded, real = "{} x {}".format(*post.size), "{} x {}".format(*size)
        raise FieldError("image_size", f"recorded as {recorded}, but {path} is {real}: its boxes would be wrong")
    for entity in post.entities:
        for box in entity.boxes:
            check_inside(box, size, f"region_box of {entity.text!r}")
    return ImageRef(str(path), *size, data=post.image_data)


_FIX = (
    "put it there, say where it is with data.image_dir=FOLDER, or, for tests and benchmarks without pictures, "
    "draw labelled boxes in its place with data.images=standin"
)


def standin(post: GoldPost, path: Path) -> ImageRef:
    """A reference that draws the post's gold boxes, labelled, at the recorded size.

    With no recorded size: `STANDIN_SIZE`, each side grown to the furthest gold box.

    Raises:
        FieldError: the size is none that a model can be shown.
    """
    drawn = tuple(dict.fromkeys((box, entity.text) for entity in post.entities for box in entity.boxes))
    if post.size is not None:
        width, height = post.size
    else:
        width = max([STANDIN_SIZE[0], *(box.x2 for box, _ in drawn)])
        height = max([STANDIN_SIZE[1], *(box.y2 for box, _ in drawn)])
    try:
        check_shape(width, height)
    except ImageError as error:
        raise FieldError("image_size", str(error)) from error
    return ImageRef(str(path), width, height, standin=drawn)
