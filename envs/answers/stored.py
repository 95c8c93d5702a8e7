"""What a store of answers gives back, and how it fails.

Knows nothing of files or databases. Always holds: a `Stored` was whole when it was read, every picture at its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.answers.key import AnswerKey


class AnswerStoreError(ValueError):
    """A store that cannot be used; the message names the file and what to do."""


class ReadOnlyStoreError(AnswerStoreError):
    """Something was to be written while a recording is replayed."""


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture file named by its content: SHA-256 in hexadecimal, absolute path, size in pixels."""

    sha256: str
    path: Path
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer, its pictures in order, and when it was put there (seconds since 1970)."""

    value: Mapping[str, Any]
    pictures: tuple[StoredPicture, ...]
    created: float


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer with the key it is kept under."""

    key: AnswerKey
    stored: Stored


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds.

    `bytes` is what the size bound is about: answers and the pictures they show. `loose_bytes` are pictures that no
    answer shows any more, or none yet; they are removed some time later. `oldest` and `newest` are seconds since 1970,
    None in an empty store. `by_kind` counts answers by (provider, kind).
    """

    answers: int
    pictures: int
    bytes: int
    loose_bytes: int
    oldest: float | None
    newest: float | None
    by_kind: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning removed."""

    answers: int
    pictures: int
    stray_files: int
