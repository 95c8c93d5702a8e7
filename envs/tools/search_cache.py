"""The released search cache on disk: one JSON file a post and kind, and a folder of images.

    text_search/<id>_text_search.json    list of {query, status, result: {summary, ...}}
    image_search/<id>_image_search.json  list of {query, status, result: {images: [{path}]}, kg_image_path}
    images/<id>/...                      the files `path` and `kg_image_path` name, relative to the root

Knows nothing of matching or prompts. Always holds: ids and paths stay inside the root, files are read
under limits, and a file that breaks the form is an error naming file and field, never an empty answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.tools.pictures import UnsafePathError, inside
from sake_ray.bounded_json import JsonRefused, parse_json
from sake_ray.data.gold import PLAIN_NAME
from sake_ray.types import SearchKind

MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 32
MAX_ENTRIES = 1_000
MAX_QUERY_CHARS = 1_000
MAX_IMAGES = 100


class SearchCacheError(ValueError):
    """A cache that cannot be used; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image an entry names: what the entry says of it, and its file."""

    raw: dict[str, Any]
    path: Path


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One cached search. `images` and `graph_image` are only those whose files exist."""

    query: str
    status: str
    result: dict[str, Any] = field(repr=False)
    summary: str = ""
    images: tuple[CachedImage, ...] = ()
    graph_image: CachedImage | None = None


class SearchCache:
    """Reads a cache folder, a post at a time."""

    def __init__(self, root: str | Path) -> None:
        """Look at the folder.

        Raises:
            SearchCacheError: it does not exist, or has neither of the two kinds.
        """
        self.root = Path(root)
        if not any((self.root / f"{kind}_search").is_dir() for kind in SearchKind):
            raise SearchCacheError(
                f"search.cache={str(root)!r}: no folder text_search or image_search there; "
                "give the folder that holds the released cache"
            )

    def entries(self, kind: SearchKind, example_id: str) -> tuple[CacheEntry, ...]:
        """A post's cached searches of one kind, in file order; none when the post has no file.

        Raises:
            SearchCacheError: the id is not a plain name, or the file breaks the form.
        """
        if not PLAIN_NAME.fullmatch(example_id):
            raise SearchCacheError(
                f"img_id={example_id!r}: an id is letters, digits, '_', '-' and '.', the first no '-' nor '.'"
            )
        relative = f"{kind}_search/{example_id}_{kind}_search.json"
        path = self._inside(relative, relative)
        if not path.exists():
            return ()
        rows = _read_list(path)
        return tuple(self._entry(kind, row, f"{path}: [{index}]") for index, row in enumerate(rows))

    def _entry(self, kind: SearchKind, row: object, where: str) -> CacheEntry:
        if not isinstance(row, Mapping):
            raise SearchCacheError(f"{where}: must be an object, is {_kind_of(row)}")
        query = _field(row, "query", str, where)
        if len(query) > MAX_QUERY_CHARS:
            raise SearchCacheError(f"{where}.query: {len(query)} characters, at most {MAX_QUERY_CHARS} are accepted")
        status = _field(row, "status", str, where)
        result = _field(row, "result", dict, where)
        if kind is SearchKind.TEXT:
            return CacheEntry(query, status, result, summary=_field(result, "summary", str, f"{where}.result"))
        images = _field(result, "images", list, f"{where}.result")
        if len(images) > MAX_IMAGES:
            raise SearchCacheError(f"{where}.result.images: {len(images)} images, at most {MAX_IMAGES} are accepted")
        found = tuple(self._image(image, f"{where}.result.images[{index}]") for index, image in enumerate(images))
        graph = row.get("kg_image_path")
        return CacheEntry(
            query,
            status,
            result,
            images=tuple(image for image in found if image.path.is_file()),
            graph_image=None if graph is None else self._existing({"path": graph}, f"{where}.kg_image_path"),
        )

    def _image(self, image: object, where: str) -> CachedImage:
        if not isinstance(image, dict):
            raise SearchCacheError(f"{where}: must be an object, is {_kind_of(image)}")
        return CachedImage(image, self._inside(_field(image, "path", str, where), f"{where}.path"))

    def _existing(self, image: dict[str, Any], where: str) -> CachedImage | None:
        if not isinstance(image["path"], str):
            raise SearchCacheError(f"{where}: must be a string or null, is {_kind_of(image['path'])}")
        found = CachedImage(image, self._inside(image["path"], where))
        return found if found.path.is_file() else None

    def _inside(self, relative: str, where: str) -> Path:
        try:
            return inside(self.root, relative)
        except UnsafePathError as error:
            raise SearchCacheError(f"{where}: {error}") from error


def _read_list(path: Path) -> list[Any]:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise SearchCacheError(f"{path}: {size} bytes, at most {MAX_FILE_BYTES} are read")
    try:
        rows = parse_json(path.read_text("utf-8"), max_chars=MAX_FILE_BYTES, max_depth=MAX_DEPTH)
    except (JsonRefused, UnicodeDecodeError) as error:
        raise SearchCacheError(f"{path}: is not the JSON expected ({error}); restore or remove the file") from error
    if not isinstance(rows, list):
        raise SearchCacheError(f"{path}: must hold a list of entries, holds {_kind_of(rows)}")
    if len(rows) > MAX_ENTRIES:
        raise SearchCacheError(f"{path}: {len(rows)} entries, at most {MAX_ENTRIES} are accepted")
    return rows


def _field(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in row:
        raise SearchCacheError(f"{where}.{name}: is missing")
    value = row[name]
    if not isinstance(value, kind):
        raise SearchCacheError(f"{where}.{name}: must be {_KINDS[kind]}, is {_kind_of(value)}")
    return value


_KINDS: dict[type, str] = {str: "a string", dict: "an object", list: "a list"}


def _kind_of(value: object) -> str:
    return "null" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")
