"""Posts to ask about, and what was answered: read from files, asked some at a time, kept as the answers come.

`results.jsonl` has a line a post: {"id", "status", "result" or "problem"}; the picture with its boxes is <id>.png
beside it. Knows nothing of who answers. Always holds: a row that cannot be used is named by file and line before
anything is asked; a post that has a result is not asked again, one with a problem is; a post's picture is there before
its line; no picture of the user's is written over.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from envs.fetch.picture import MAX_PIXELS, prepare_picture
from envs.fetch.refusal import FetchRefused
from sake_ray.coldstart.all_posts import for_all
from sake_ray.coldstart.stage_folder import SETTINGS, GrowingFile, claim
from sake_ray.data.images import MAX_IMAGE_BYTES
from sake_ray.data.json_files import read_text, read_values, write_lines
from sake_ray.data.problems import DataError
from sake_ray.pages.annotate import annotate

log = logging.getLogger(__name__)
RESULTS, LISTED = "results.jsonl", "posts.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
MAX_LINE = 16 * 2**20
"""Characters of a result, which holds what searches said."""
_KEYS = ("id", "text", "image")
_PLAIN = re.compile(r"[^\W_](?:[\w. -]{0,118}\w)?")
_LINE_S = 15.0


class AskingEnded(Exception):
    """Nobody answers any more, or nobody may be asked; the message is a sentence for people."""


@dataclass(frozen=True)
class Post:
    """A post with its picture."""

    id: str
    text: str
    picture: Path


@dataclass(frozen=True)
class Reply:
    """What came of a post: a result, or a problem."""

    status: int
    result: dict[str, Any] | None
    problem: dict[str, Any] | None = None

    def said(self) -> str:
        """The problem for people, with its field."""
        problem = self.problem or {}
        field = f"{problem['field']}: " if problem.get("field") else ""
        return f"{field}{problem.get('detail') or problem.get('title') or f'status {self.status}'}"


class Asker(Protocol):
    """Whoever answers posts."""

    async def ask(self, post: Post) -> Reply:
        """The answer to a post, or its problem; `AskingEnded` when no post would get one."""
        ...


# --- posts -----------------------------------------------------------------------------------------------


def one_post(text: str, picture: Path) -> Post:
    """A post of the command line.

    Raises:
        DataError: it has no text or no picture.
    """
    if wrong := _wrong(text, picture):
        raise DataError(f"{wrong[0]}: {wrong[1]}")
    return Post(picture.stem, text, picture)


def posts_of_folder(folder: Path) -> list[Post]:
    """The posts of its `posts.jsonl`, else every picture with its post in a text file of the same name.

    Raises:
        DataError: there are none, or one cannot be used.
    """
    if not folder.is_dir():
        raise DataError(f"folder={folder}: no such folder")
    if (folder / LISTED).is_file():
        return posts_of_file(folder / LISTED)
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    found = [path for path in pictures if path.with_suffix(".txt").is_file()]
    if not found:
        raise DataError(f"folder={folder}: holds neither {LISTED} nor a picture with a .txt of the same name")
    if alone := len(pictures) - len(found):
        log.warning("%d of %d pictures in %s have no .txt beside them and are left out", alone, len(pictures), folder)
    posts: dict[str, Post] = {}
    for picture in found:
        words = picture.with_suffix(".txt")
        text = read_text(words).strip()
        if wrong := _wrong(text, picture):
            raise DataError(f"{words if wrong[0] == 'text' else picture}: {wrong[1]}")
        _add(posts, Post(picture.stem, text, picture), str(picture))
    return list(posts.values())


def posts_of_file(path: Path) -> list[Post]:
    """The posts of a JSON-lines file of {"text", "image": a path, relative to the file, "id" optional}.

    Raises:
        DataError: there are none, or a line cannot be used.
    """
    posts: dict[str, Post] = {}
    for line, row in read_values(path):
        at = f"{path}:{line}"
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("text", "image")):
            raise DataError(f'{at}: must be an object with "text" and "image"')
        if unknown := sorted(row.keys() - set(_KEYS)):
            raise DataError(f"{at}: unknown key {unknown[0]!r}; there are {', '.join(_KEYS)}")
        picture = path.parent / row["image"]
        if wrong := _wrong(row["text"], picture):
            raise DataError(f"{at}: {wrong[0]}: {wrong[1]}")
        given = row.get("id", line)
        if not isinstance(given, str | int) or not _PLAIN.fullmatch(str(given)):
            raise DataError(f"{at}: id: {given!r:.60} is no plain name of letters, digits, '.', '-', '_' and blanks")
        _add(posts, Post(str(given), row["text"], picture), at)
    if not posts:
        raise DataError(f"{path}: holds no post")
    return list(posts.values())


def _wrong(text: str, picture: Path) -> tuple[str, str] | None:
    """What is wrong with a post: which part of it, and why."""
    if not text.strip():
        return "text", "the post is empty"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "text", "half a character (a lone surrogate) stands in the post"
    if "\0" in str(picture) or not picture.is_file():
        return "image", f"{picture}: no such picture"
    if picture.stat().st_size > MAX_IMAGE_BYTES:
        return "image", f"{picture}: larger than the {MAX_IMAGE_BYTES} bytes a picture may have"
    return None


def _add(posts: dict[str, Post], post: Post, at: str) -> None:
    """Keep a post whose id, which names a file, no other has."""
    if (same := post.id.casefold()) in posts:
        raise DataError(f"{at}: the id {post.id!r} is that of an earlier post too; give each its own")
    posts[same] = post


# --- answers ---------------------------------------------------------------------------------------------


class Results:
    """The results of a folder: those that are there, and a place for more."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], posts: Sequence[Post]) -> None:
        """Open or begin the file; `identity` is all that the answers depend on beside the posts.

        Raises:
            DataError: the folder is of other settings or posts, its file is broken, or a picture would be written over.
        """
        self.folder = folder
        given, began = {post.picture.resolve() for post in posts}, (folder / SETTINGS).exists()
        for target in map(self.picture_of, posts):
            if target.resolve() in given or (target.exists() and not began):
                raise DataError(f"output={folder}: {target.name} is there and would be written over; choose another")
        claim(folder, identity, "output")
        self._file = GrowingFile(folder / RESULTS)
        by_id = {post.id: post for post in posts}
        kept: dict[str, dict[str, Any]] = {}
        rows = [] if self._file.empty else list(read_values(self._file.path, max_value_chars=MAX_LINE))
        for line, row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("id"), str) or row["id"] in kept:
                raise DataError(f"{self._file.path}:{line}: is no result of a post of its own; remove the line")
            if not isinstance(row.get("result"), dict):
                continue
            asked = by_id.get(row["id"])
            if asked is not None and row["result"].get("text") != asked.text:
                raise DataError(
                    f"{self._file.path}:{line}: post {asked.id} had another text when it was answered; choose another "
                    "output, or remove the line"
                )
            kept[row["id"]] = row
        if len(kept) < len(rows):  # those with a problem are asked again
            write_lines(self._file.path, kept.values())
        self._done = set(kept)

    def missing(self, posts: Sequence[Post]) -> list[Post]:
        """The posts that have no result."""
        return [post for post in posts if post.id not in self._done]

    def picture_of(self, post: Post) -> Path:
        """Where a post's picture with its boxes is."""
        return self.folder / f"{post.id}.png"

    def add(self, post: Post, reply: Reply) -> None:
        """Keep what came of a post."""
        if reply.result is not None:
            draw(post, reply.result, self.picture_of(post))
            self._done.add(post.id)
        told = {"problem": reply.problem} if reply.result is None else {"result": reply.result}
        self._file.add({"id": post.id, "status": reply.status, **told})


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second command out of a folder: both would add to the same file.

    Raises:
        DataError: another one is in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".predict.lock").open("w")
    except OSError as error:
        raise DataError(f"output={folder}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"output={folder}: another command is working there; choose another") from None
        yield


def draw(post: Post, result: Mapping[str, Any], target: Path) -> None:
    """Write the picture with the boxes of its answer, whole; one that cannot be drawn is named in the log."""
    from PIL.Image import open as open_image

    try:
        made = prepare_picture(post.picture.read_bytes(), max_pixels=MAX_PIXELS, lossless=True)
    except (FetchRefused, OSError) as error:
        log.warning("%s: no picture of the answer: %s", post.picture, error)
        return
    with open_image(io.BytesIO(made.data)) as picture:
        drawn = annotate(picture, result["entities"])
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.unfinished")
    drawn.save(scratch, "PNG")
    os.replace(scratch, target)


async def predict_all(posts: Sequence[Post], asker: Asker, results: Results, *, at_once: int) -> int:
    """Ask about the posts that have no result; returns how many of `posts` have none in the end.

    Raises:
        AskingEnded: nobody answers any more; what was answered is kept.
    """
    one_writes = asyncio.Lock()

    async def one(post: Post) -> None:
        reply = await asker.ask(post)
        if reply.result is None:
            log.warning("%s: %s", post.id, reply.said())
        async with one_writes:
            # Shielded: what was answered is kept, also by whoever is being stopped.
            await asyncio.shield(asyncio.to_thread(results.add, post, reply))

    with _Bar() as bar:
        await for_all(results.missing(posts), one, at_once=at_once, total=len(posts), on_post=bar.show)
    return len(results.missing(posts))


class _Bar:
    """How many posts are done: a bar where there is a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("posts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)
        )
        self._terminal = sys.stderr.isatty()
        self._task = self._bar.add_task("posts", total=None)
        self._told = time.monotonic()

    def __enter__(self) -> _Bar:
        if self._terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._terminal:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """So many of so many."""
        self._bar.update(self._task, completed=done, total=total)
        if not self._terminal and (done == total or time.monotonic() - self._told > _LINE_S):
            self._told = time.monotonic()
            sys.stderr.write(f"predict: {done} of {total} posts\n")
