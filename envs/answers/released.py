"""The release's search cache, read into a store and written from one.

The format is in `envs.tools.search_cache`: a file a post and kind, and the pictures. A store keeps shown answers by
query alone, so that a query has one answer for all posts. Knows nothing of services or settings. Always holds: what is
imported is what the offline tool shows of the same files; what is exported, the offline tool in strict matching answers
as the store does, with the same images_per_query; ids and paths stay inside their folder; an export is whole or not
there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.answers.key import AnswerKey, normalised
from envs.answers.store import AnswerStore
from envs.answers.stored import Kept, StoredPicture
from envs.tools.pictures import inside, usable_pictures
from envs.tools.search_cache import (
    MAX_ENTRIES,
    MAX_FILE_BYTES,
    MAX_QUERY_CHARS,
    CachedImage,
    CacheEntry,
    SearchCache,
    SearchCacheError,
)
from envs.tools.shown import shown_value
from sake_ray.bounded_json import parse_json
from sake_ray.data.gold import PLAIN_NAME
from sake_ray.data.images import PICTURE_SUFFIXES
from sake_ray.types import QueryResult, SearchKind

_GRAPH = "graph"
"""In a shown answer: true where its first picture is the knowledge graph's. Nobody needs it but an export."""


@dataclass(frozen=True, slots=True)
class ImportCounts:
    """What became of the searches in the files: `answers` were put (with `pictures`), `standing` were in the store
    already, `shared` had been read of another post.
    """

    posts: int = 0
    answers: int = 0
    pictures: int = 0
    standing: int = 0
    shared: int = 0


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What was written: `answers` of `posts`, of them `failed` ones, which the format cannot tell from "no result".

    Not written: `other_settings` are older answers to a query that was asked under several settings, `unasked` answers
    of which it is not known which post asked, `left_out` what the format has no room or name for.
    """

    posts: int = 0
    answers: int = 0
    pictures: int = 0
    failed: int = 0
    other_settings: int = 0
    unasked: int = 0
    left_out: int = 0


def import_released(
    store: AnswerStore,
    folder: Path,
    provider: str,
    *,
    options_of: Callable[[SearchKind], Mapping[str, Any]],
    images_per_query: int = 1,
    max_chars: int = 2_000,
) -> ImportCounts:
    """Put a released cache into a store, as if `provider` had answered so.

    What stands in the store stays, so that an import that was cut off can be made again.

    Args:
        store: open for writing.
        folder: the released cache.
        provider: under whose name the answers are kept.
        options_of: the rest of the keys, as the configuration that will use the answers makes them.
        images_per_query, max_chars: what that configuration shows.

    Raises:
        SearchCacheError: the folder is no released cache, or a file breaks the form.
        AnswerStoreError: the store cannot be written.
    """
    cache = SearchCache(folder)
    posts: set[str] = set()
    read: set[str] = set()
    answers = pictures = standing = shared = 0
    for kind in SearchKind:
        options = options_of(kind)
        for post in _posts_of(folder, kind):
            posts.add(post)
            for entry in cache.entries(kind, post):
                key = AnswerKey.of(provider, str(kind), entry.query, options)
                if key.digest in read or store.get(key) is not None:
                    shared, standing = shared + (key.digest in read), standing + (key.digest not in read)
                    store.note_asked(key, post)
                else:
                    if kind is SearchKind.TEXT:
                        value, kept = _text_answer(entry, max_chars)
                    else:
                        value, kept = _image_answer(store, entry, images_per_query)
                    store.put(key, value, pictures=kept, post=post)
                    answers, pictures = answers + 1, pictures + len(kept)
                read.add(key.digest)
    store.flush()
    return ImportCounts(len(posts), answers, pictures, standing, shared)


def export_released(store: AnswerStore, folder: Path, provider: str) -> ExportCounts:
    """Write what posts asked of `provider` as a released cache; `folder` must be empty, or not exist.

    Raises:
        SearchCacheError: the folder holds something, or there is nothing to write.
        AnswerStoreError: the store cannot be read.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SearchCacheError(f"{folder}: holds something already; name an empty folder, or one that does not exist")
    scratch = folder.absolute().with_name(f"{folder.absolute().name}.unfinished")
    if scratch.exists():
        shutil.rmtree(scratch)
    for kind in SearchKind:
        (scratch / f"{kind}_search").mkdir(parents=True)
    export = _Export(scratch)
    for post in store.posts():
        export.add(post, [kept for kept in store.asked_by(post) if _is_shown(kept.key, provider)])
    unasked = sum(
        1 for kept in store.answers(provider) if _is_shown(kept.key, provider) and kept.key.digest not in export.seen
    )
    if not export.posts:
        shutil.rmtree(scratch)
        known = sorted({name for name, _ in store.by_kind()})
        raise SearchCacheError(
            f"no post has asked {provider!r} anything that is in the store; {unasked} answers are without a post, "
            f"and there are answers of: {', '.join(known) or 'nobody'}"
        )
    os.replace(scratch, folder)
    return export.counts(unasked)


class _Export:
    """Writes post by post, and counts."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.seen: set[str] = set()
        self.posts = 0
        self._answers = self._pictures = self._failed = self._other = self._left_out = 0

    def add(self, post: str, asked: list[Kept]) -> None:
        """Write a post's searches."""
        self.seen.update(kept.key.digest for kept in asked)
        if not PLAIN_NAME.fullmatch(post):
            self._left_out += len(asked)
            return
        for kind in SearchKind:
            newest: dict[str, Kept] = {}
            for kept in asked:
                if kept.key.kind == kind:
                    known = newest.get(kept.key.query)
                    self._other += known is not None
                    if known is None or kept.stored.created >= known.stored.created:
                        newest[kept.key.query] = kept
            if newest:
                self._write(kind, post, newest.values())
        self.posts += bool(asked)

    def counts(self, unasked: int) -> ExportCounts:
        """All that was counted."""
        return ExportCounts(
            self.posts, self._answers, self._pictures, self._failed, self._other, unasked, self._left_out
        )

    def _write(self, kind: SearchKind, post: str, asked: Iterable[Kept]) -> None:
        texts: list[str] = []
        size = 4
        for kept in asked:
            place = len(texts)
            row = _text_row(kept) if kind is SearchKind.TEXT else self._image_row(kept, f"images/{post}/{place}")
            text = json.dumps(row, indent=1)
            size += len(text) + 2
            if place == MAX_ENTRIES or size > MAX_FILE_BYTES:
                self._left_out += 1
                continue
            texts.append(text)
            self._failed += kept.stored.value.get("status") == "failed"
        self._answers += len(texts)
        path = inside(self._root, f"{kind}_search/{post}_{kind}_search.json")
        path.write_text("[\n" + ",\n".join(texts) + "\n]\n", encoding="ascii")

    def _image_row(self, kept: Kept, stem: str) -> dict[str, Any]:
        pictures = list(kept.stored.pictures)
        limit = _options(kept.key).get("images_per_query")
        graph = None
        if kept.stored.value.get(_GRAPH) is True or (isinstance(limit, int) and len(pictures) > limit):
            # It says so, or there is one more than were asked for: the first is the knowledge graph's.
            graph = self._copy(pictures.pop(0), f"{stem}_kg")
        images = [{"path": self._copy(picture, f"{stem}_{n}")} for n, picture in enumerate(pictures)]
        return {**_head(kept), "result": {"images": images}, "kg_image_path": graph}

    def _copy(self, picture: StoredPicture, stem: str) -> str:
        relative = f"{stem}{picture.path.suffix}"
        path = inside(self._root, relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture.path, path)
        self._pictures += 1
        return relative


def _posts_of(folder: Path, kind: SearchKind) -> Iterator[str]:
    ending = f"_{kind}_search.json"
    for path in sorted((folder / f"{kind}_search").glob(f"*{ending}")):
        yield path.name.removesuffix(ending)


def _image_answer(
    store: AnswerStore, entry: CacheEntry, limit: int
) -> tuple[Mapping[str, Any], tuple[StoredPicture, ...]]:
    """An entry's answer, with the pictures that are shown and can be, as the offline tool has them."""
    graph = _add_picture(store, entry.graph_image) if entry.status == "success" else ()
    others = entry.images[:limit] if entry.status == "success" else ()
    kept = (*graph, *(picture for image in others for picture in _add_picture(store, image)))
    value = shown_value(QueryResult(entry.query, "success" if kept else "no_result"))
    return {**value, _GRAPH: True} if graph else value, kept


def _add_picture(store: AnswerStore, image: CachedImage | None) -> tuple[StoredPicture, ...]:
    if image is None:
        return ()
    suffix = image.path.suffix.lower()
    suffix = suffix if suffix in PICTURE_SUFFIXES else ".jpg"
    return tuple(
        store.add_picture(image.path.read_bytes(), suffix, ref.width, ref.height)
        for ref in usable_pictures([image.path])
    )


def _text_answer(entry: CacheEntry, max_chars: int) -> tuple[Mapping[str, Any], tuple[StoredPicture, ...]]:
    if entry.status != "success" or not entry.summary.strip():
        return shown_value(QueryResult(entry.query, "no_result")), ()
    return shown_value(QueryResult(entry.query, "success", entry.summary[:max_chars])), ()


def _is_shown(key: AnswerKey, provider: str) -> bool:
    """Whether a key is of what the policy is shown, and not of something kept on the way to it."""
    return key.provider == provider and key.kind in list(SearchKind) and "shown" in _options(key)


def _options(key: AnswerKey) -> Mapping[str, Any]:
    options = parse_json(key.options, max_chars=MAX_FILE_BYTES, max_depth=32)
    return options if isinstance(options, dict) else {}


def _head(kept: Kept) -> dict[str, Any]:
    """Query and status in the release's words; what failed and what found nothing are both a "failure" there."""
    query = kept.stored.value.get("query")
    # A key's query is folded; what was asked is nicer to read, and finds the same.
    usable = isinstance(query, str) and len(query) <= MAX_QUERY_CHARS and normalised(query) == kept.key.query
    status = "success" if kept.stored.value.get("status") == "success" else "failure"
    return {"query": query if usable else kept.key.query, "status": status}


def _text_row(kept: Kept) -> dict[str, Any]:
    summary = kept.stored.value.get("text")
    summary = summary if isinstance(summary, str) else ""
    return {**_head(kept), "result": {"summary": summary, "raw_snippets": [], "knowledge_graph": None}}
