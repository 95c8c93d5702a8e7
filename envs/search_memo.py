"""Remembers what searches answered, in memory and in a file, so that a second try or a second run asks nothing twice.

Knows nothing of tools or teachers. Always holds: what failed is not remembered; of several who ask the same at once
one asks the tool; an answer is on disk before anyone gets it; one whose pictures are gone is asked for anew.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from sake_ray.coldstart.secot_rows import observation_of, observation_row
from sake_ray.coldstart.stage_folder import GrowingFile
from sake_ray.data.json_files import MAX_FILE_BYTES, read_values
from sake_ray.data.problems import DataError, FieldError
from sake_ray.interfaces import SearchClient
from sake_ray.types import Example, ImageSearch, Observation, TextSearch

_Key = tuple[str, str, tuple[str, ...]]


class SearchMemo:
    """A `SearchClient` before another; `per_post` where the tool's answers depend on the post that asks."""

    def __init__(self, search: SearchClient, path: Path, *, per_post: bool) -> None:
        """Read what `path` remembers.

        Raises:
            DataError: the file is broken.
        """
        self._search = search
        self._per_post = per_post
        self._file = GrowingFile(path)
        self._known: dict[_Key, Observation] = {}
        self._asking: dict[_Key, asyncio.Task[Observation]] = {}
        self.asked, self.hits = 0, 0
        if not self._file.empty:
            self._read(path)

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """The remembered answer, or the tool's."""
        kind = action.kind
        key = (example.id if self._per_post else "", str(kind), action.queries)
        if key in self._known:
            self.hits += 1
            known = self._known[key]
            return replace(known, results=tuple(replace(result, cached=True) for result in known.results))
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, example, action))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)  # one asker's cancellation is not the others'

    async def _ask(self, key: _Key, example: Example, action: TextSearch | ImageSearch) -> Observation:
        self.asked += 1
        observation = await self._search.search(example, action)
        if all(result.status != "failed" for result in observation.results):
            post, _, queries = key
            self._file.add({"post": post, "queries": list(queries), **observation_row(observation)})
            self._known[key] = observation
        return observation

    def _read(self, path: Path) -> None:
        for line, row in read_values(path, max_value_chars=MAX_FILE_BYTES):
            try:
                key, observation = _remembered(row)
            except FieldError as error:
                raise DataError(f"{path}:{line}: {error}; remove the line or the file") from error
            if all(Path(image.path).is_file() for result in observation.results for image in result.images):
                self._known[key] = observation


def _remembered(row: Any) -> tuple[_Key, Observation]:
    if not isinstance(row, dict) or not isinstance(row.get("post"), str):
        raise FieldError("post", "is missing")
    queries = row.get("queries")
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise FieldError("queries", "is no list of texts")
    observation = observation_of(row, "answer")
    if observation is None:
        raise FieldError("kind", "is missing")
    return (row["post"], str(observation.kind), tuple(queries)), observation
