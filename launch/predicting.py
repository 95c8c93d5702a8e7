"""Posts to ask about, and what was answered: asked some at a time, kept as the answers come.

`results.jsonl` has a line a post: {"id", "status", "result" or "problem"}; the picture with its boxes is <id>.png
beside it. Knows nothing of who answers. Always holds: a post that has a result is not asked again, one with a problem
is; a post's picture is there before its line; no picture of the user's is written over.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from envs.fetch.picture import MAX_PIXELS, prepare_picture
from envs.fetch.refusal import FetchRefused
from launch.post_files import Post
from sake_ray.coldstart.all_posts import for_all
from sake_ray.coldstart.stage_folder import SETTINGS, GrowingFile, claim
from sake_ray.data.json_files import read_values, write_lines
from sake_ray.data.problems import DataError
from sake_ray.pages.annotate import annotate

log = logging.getLogger(__name__)
RESULTS = "results.jsonl"
MAX_LINE = 16 * 2**20
"""Characters of a result, which holds what searches said."""
_LINE_S = 15.0


class AskingEnded(Exception):
    """Nobody answers any more, or nobody may be asked; the message is a sentence for people."""


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
