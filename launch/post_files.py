"""Posts of the user's own: a folder of pictures with their post in a text file of the same name, or a list of posts.

    a.jpg, a.txt     a picture and its post
    posts.jsonl      in a folder, in place of these; or a file anywhere: a line a post, {"text", "image": a path,
                     relative to the file, "id" and "note" optional}

Knows nothing of who asks about the posts or shows them. Always holds: what cannot be used is named by file and line; an
id names a file, and no other post of the same files has it; where posts must lie inside their folder, nothing outside
is read.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sake_ray.data.images import MAX_IMAGE_BYTES, PICTURE_SUFFIXES
from sake_ray.data.json_files import read_text, read_values
from sake_ray.data.problems import DataError

log = logging.getLogger(__name__)
LISTED = "posts.jsonl"
_KEYS = ("id", "text", "image", "note")
_PLAIN = re.compile(r"[^\W_](?:[\w. -]{0,118}\w)?")


@dataclass(frozen=True)
class Post:
    """A post with its picture."""

    id: str
    text: str
    picture: Path
    note: str = ""


def one_post(text: str, picture: Path) -> Post:
    """A post of the command line.

    Raises:
        DataError: it has no text or no picture.
    """
    if wrong := _wrong(text, picture, None):
        raise DataError(f"{wrong[0]}: {wrong[1]}")
    return Post(picture.stem, text, picture)


def posts_of_folder(folder: Path, named: str, *, inside: bool = False) -> list[Post]:
    """The posts of its `posts.jsonl`, else every picture with its post in a text file of the same name.

    `named` is the word that the user gave it by; `inside` refuses pictures, and passes over texts and lists, that lie
    elsewhere.

    Raises:
        DataError: there are none, or one cannot be used.
    """
    if not folder.is_dir():
        raise DataError(f"{named}={folder}: no such folder")
    within = folder if inside else None
    if _is_file(folder / LISTED, within):
        return posts_of_file(folder / LISTED, inside=inside)
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    found = [path for path in pictures if _is_file(path.with_suffix(".txt"), within)]
    if not found:
        raise DataError(f"{named}={folder}: holds neither {LISTED} nor a picture with a .txt of the same name")
    if alone := len(pictures) - len(found):
        log.warning("%d of %d pictures in %s have no .txt beside them and are left out", alone, len(pictures), folder)
    posts: dict[str, Post] = {}
    for picture in found:
        words = picture.with_suffix(".txt")
        text = read_text(words).strip()
        if wrong := _wrong(text, picture, within):
            raise DataError(f"{words if wrong[0] == 'text' else picture}: {wrong[1]}")
        _add(posts, Post(picture.stem, text, picture), str(picture))
    return list(posts.values())


def posts_of_file(path: Path, *, inside: bool = False) -> list[Post]:
    """The posts of a list; `inside` refuses pictures that lie outside the list's folder.

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
        if wrong := _wrong(row["text"], picture, path.parent if inside else None):
            raise DataError(f"{at}: {wrong[0]}: {wrong[1]}")
        given, note = row.get("id", line), row.get("note", "")
        if not isinstance(given, str | int) or not _PLAIN.fullmatch(str(given)):
            raise DataError(f"{at}: id: {given!r:.60} is no plain name of letters, digits, '.', '-', '_' and blanks")
        if not isinstance(note, str):
            raise DataError(f"{at}: note: {note!r:.60} is no text")
        _add(posts, Post(str(given), row["text"], picture, note), at)
    if not posts:
        raise DataError(f"{path}: holds no post")
    return list(posts.values())


def _wrong(text: str, picture: Path, within: Path | None) -> tuple[str, str] | None:
    """What is wrong with a post: which part of it, and why."""
    if not text.strip():
        return "text", "the post is empty"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "text", "half a character (a lone surrogate) stands in the post"
    if not _is_file(picture, None):
        return "image", f"{picture}: no such picture"
    if not _is_file(picture, within):
        return "image", f"{picture}: lies outside {within}"
    if picture.stat().st_size > MAX_IMAGE_BYTES:
        return "image", f"{picture}: larger than the {MAX_IMAGE_BYTES} bytes a picture may have"
    return None


def _is_file(path: Path, within: Path | None) -> bool:
    """Whether it is a file, in that folder if one is given, and no link out of it; false of what cannot be a path."""
    return os.path.isfile(path) and (within is None or path.resolve().is_relative_to(within.resolve()))


def _add(posts: dict[str, Post], post: Post, at: str) -> None:
    """Keep a post whose id, which names a file, no other has."""
    if (same := post.id.casefold()) in posts:
        raise DataError(f"{at}: the id {post.id!r} is that of an earlier post too; give each its own")
    posts[same] = post
