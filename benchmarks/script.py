"""What the benchmarks' scripts have in common: their words, and a Ray of their own.

Knows nothing of what is measured. Always holds: a word that means nothing ends the script with a sentence and status 2;
a Ray that was started is ended, and its files are removed.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launch.words import UsageError, read_words


def words_or_exit(
    arguments: Sequence[str], known: Collection[str], usage: str | None, required: Collection[str] = ()
) -> dict[str, str]:
    """The `key=value` words of a benchmark; shows `usage` and ends the process where that is asked for.

    Raises:
        SystemExit: with status 0 after the help, 2 after one sentence on words that mean nothing.
    """
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write(usage or "")
        raise SystemExit(0)
    try:
        return read_words(arguments, known, required)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error


@contextmanager
def own_ray(num_cpus: int) -> Iterator[None]:
    """A local Ray whose actors find this project."""
    from actors.placement import joined_ray

    with joined_ray(num_cpus, python_path=Path(__file__).resolve().parents[1]):
        yield
