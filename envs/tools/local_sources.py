"""What a local search folder is made of: which of a user's files hold documents and which captions, and their rows.

    encyclopaedia.jsonl       a line a document: {"title", "text"}, optional "picture": PATH or "pictures": [PATH, …]
    documents/NAME            any number of .jsonl, .jsonl.gz and .parquet files with the same fields
    NAME                      the same beside them, in a folder that has neither of these two
    captions.jsonl, .jsonl.gz, .csv, .parquet      rows {"file": PATH, "caption"}
    pictures/NAME.jpg         a picture whose caption is in pictures/NAME.txt

Other fields are ignored; every PATH is relative to the folder and stays inside it. Knows nothing of SQLite or of
queries. Always holds: files and rows come in one order, that of their names and of their lines; nothing is repaired or
left out: a document without title or text, and a caption without its picture, is a `LocalIndexError` that says where.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from envs.tools.local_rows import CSV, GZIPPED, JSON_LINES, PARQUET, LocalIndexError, read_rows
from envs.tools.pictures import UnsafePathError, inside
from sake_ray.data.images import PICTURE_SUFFIXES

SOURCE_NAME = "encyclopaedia.jsonl"
DOCUMENTS = "documents"
CAPTIONS = "captions"
PICTURES = "pictures"
DOCUMENT_SUFFIXES = (JSON_LINES, GZIPPED, PARQUET)
CAPTION_SUFFIXES = (JSON_LINES, GZIPPED, CSV, PARQUET)

MAX_TITLE_CHARS = 1_000
MAX_TEXT_CHARS = 1_000_000
MAX_CAPTION_CHARS = 10_000
MAX_PATH_CHARS = 4_000
MAX_PICTURES = 100
"""Of one document."""
MAX_SOURCE_BYTES = 64 * 1024**3
"""Of all files together, as they lie on disk."""
MAX_HASHED_BYTES, MAX_HASHED_FILES = 1024**3, 10_000
"""Up to here a folder's state is told by what its files hold, beyond it by their sizes and times of change."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Article:
    """One document: a title, a text, and its pictures.

    A picture is the bytes of a PNG or JPEG, or the path of a file that already lies in the folder.
    """

    title: str
    text: str
    images: tuple[bytes | str, ...] = ()


@dataclass(frozen=True, slots=True)
class Caption:
    """What a picture of the folder shows; `file` is its path there."""

    file: str
    caption: str


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of a folder that are indexed; `sidecars` are (text file, picture) pairs, `loose` says of the first
    two whether they are merely what lay there and carry no name of ours."""

    root: Path
    documents: tuple[Path, ...] = ()
    captions: tuple[Path, ...] = ()
    sidecars: tuple[tuple[Path, Path], ...] = ()
    loose: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read, in order."""
        return (*self.documents, *self.captions, *(text for text, _ in self.sidecars))

    def articles(self) -> Iterator[tuple[str, Article]]:
        """Every document, and where it stands."""
        for path in self.documents:
            for where, row in read_rows(path, ("title", "text", "picture", "pictures")):
                yield where, _article(where, row)

    def captioned(self) -> Iterator[tuple[str, Caption]]:
        """Every captioned picture, and where its caption stands."""
        for path in self.captions:
            for where, row in read_rows(path, ("file", "caption")):
                file = _text(where, row, "file", MAX_PATH_CHARS)
                yield where, Caption(file, _text(where, row, "caption", MAX_CAPTION_CHARS))
        for text, picture in self.sidecars:
            file = str(PurePosixPath(PICTURES, picture.name))
            yield str(text), Caption(file, _sidecar(text))

    def digest(self) -> str:
        """A hash that changes when any file is added, removed or changed.

        Raises:
            LocalIndexError: the files are too large, or one cannot be read.
        """
        whole = hashlib.sha256()
        files = self.files
        try:
            stats = [path.stat() for path in files]
            total = sum(stat.st_size for stat in stats)
            if total > MAX_SOURCE_BYTES:
                raise LocalIndexError(f"{self.root}: {total} bytes of documents, at most {MAX_SOURCE_BYTES} are read")
            by_content = total <= MAX_HASHED_BYTES and len(files) <= MAX_HASHED_FILES
            for path, stat in zip(files, stats, strict=True):
                state = _sha256(path) if by_content else str(stat.st_mtime_ns)
                line = [path.relative_to(self.root).as_posix(), stat.st_size, state]
                whole.update(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise LocalIndexError(f"{self.root}: cannot be read ({error})") from error
        whole.update(json.dumps([picture.name for _, picture in self.sidecars]).encode())
        return whole.hexdigest()


def find_sources(root: Path, *, loose: bool = True) -> Sources:
    """The files of `root` that are indexed; `loose` allows those that only lie there and carry no name of ours.

    Raises:
        LocalIndexError: the folder cannot be read.
    """
    try:
        encyclopaedia, folder = root / SOURCE_NAME, root / DOCUMENTS
        named = [encyclopaedia] if encyclopaedia.is_file() else []
        named += _files(folder, DOCUMENT_SUFFIXES)
        captions = [path for suffix in CAPTION_SUFFIXES if (path := root / f"{CAPTIONS}{suffix}").is_file()]
        beside = []
        if loose and not named and not folder.is_dir():
            beside = [path for path in _files(root, DOCUMENT_SUFFIXES) if path not in captions]
        sidecars = _sidecars(root / PICTURES) if loose or named or captions else []
    except OSError as error:
        raise LocalIndexError(f"{root}: cannot be read ({error})") from error
    return Sources(
        root,
        tuple(named or beside),
        tuple(captions),
        tuple(sidecars),
        loose=not named and not captions and bool(beside or sidecars),
    )


def check_article(where: str, article: Article) -> None:
    """Refuse a document that cannot be indexed.

    Raises:
        LocalIndexError: no title, no text, or one that is too long or no text.
    """
    for name, text, limit in (("title", article.title, MAX_TITLE_CHARS), ("text", article.text, MAX_TEXT_CHARS)):
        if not text.strip():
            raise LocalIndexError(f"{where}: {name}: is empty; a document needs a title and a text")
        _check_text(where, name, text, limit)
    if len(article.images) > MAX_PICTURES:
        raise LocalIndexError(f"{where}: pictures: {len(article.images)}, at most {MAX_PICTURES} are read")


def check_caption(root: Path, where: str, caption: Caption) -> None:
    """Refuse a caption that cannot be indexed.

    Raises:
        LocalIndexError: it is empty, or its picture is not in the folder.
    """
    _text(where, {"caption": caption.caption}, "caption", MAX_CAPTION_CHARS)
    path = path_inside(root, f"{where}: file", caption.file)
    try:
        found = path.is_file()
    except OSError as error:  # a name that is too long
        raise LocalIndexError(f"{where}: file: {error}") from error
    if not found:
        raise LocalIndexError(f"{where}: file: {path} is no file; paths are relative to {root}")


def _article(where: str, row: Mapping[str, Any]) -> Article:
    for name in ("title", "text"):
        if not isinstance(row.get(name), str):
            raise LocalIndexError(f"{where}: {name}: must be a string; {_has(row)}")
    pictures = row["pictures"] if row.get("pictures") is not None else [row["picture"]] if row.get("picture") else []
    if not isinstance(pictures, list) or not all(isinstance(path, str) for path in pictures):
        raise LocalIndexError(f"{where}: picture: must be a path, pictures: a list of paths")
    return Article(row["title"], row["text"], tuple(pictures))


def path_inside(root: Path, where: str, file: str) -> Path:
    """The file that a row names.

    Raises:
        LocalIndexError: it lies elsewhere, or cannot be a path.
    """
    _check_text(where, "path", file, MAX_PATH_CHARS)
    try:
        return inside(root, file)
    except (UnsafePathError, OSError, RuntimeError) as error:  # a part that is too long, a loop of links
        raise LocalIndexError(f"{where}: {error}") from error


def _text(where: str, row: Mapping[str, Any], name: str, limit: int) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise LocalIndexError(f"{where}: {name}: must be a string; {_has(row)}")
    if not value.strip():
        raise LocalIndexError(f"{where}: {name}: is empty")
    _check_text(where, name, value, limit)
    return value


def _check_text(where: str, name: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise LocalIndexError(f"{where}: {name}: {len(text)} characters, at most {limit} are read")
    if _SURROGATE.search(text):
        raise LocalIndexError(
            f"{where}: {name}: holds half a surrogate pair, which is no character; write the text as UTF-8"
        )


def _has(row: Mapping[str, Any]) -> str:
    names = ", ".join(str(name)[:40] for name in list(row)[:10])
    return f"the row has {names or 'none of the fields'}"


def _sidecar(path: Path) -> str:
    where = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(4 * MAX_CAPTION_CHARS + 1)
        caption = data.decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LocalIndexError(f"{where}: cannot be read as text ({error})") from error
    return _text(where, {"caption": caption}, "caption", MAX_CAPTION_CHARS)


def _sidecars(folder: Path) -> list[tuple[Path, Path]]:
    """Text files beside a picture of the same name; text files without one are something else's."""
    if not folder.is_dir():
        return []
    paths = sorted(folder.iterdir())
    pictures: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() in PICTURE_SUFFIXES:
            pictures.setdefault(path.stem, path)
    return [(path, pictures[path.stem]) for path in paths if path.suffix == ".txt" and path.stem in pictures]


def _files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.endswith(tuple(suffixes)) and path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
