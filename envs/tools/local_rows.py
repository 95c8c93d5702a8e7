"""Rows of a user's own files: JSON lines (also gzipped), CSV and parquet, one at a time and under limits.

Knows nothing of documents, captions or indexes. Always holds: of a file no more is in memory than a line, of limited
length, or a batch of parquet rows; whatever is wrong with a file is a `LocalIndexError` that names file and row.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from sake_ray.bounded_json import JsonRefused, parse_json

MAX_LINE_BYTES = 8 * 1024**2
MAX_DEPTH = 32
MAX_FILE_BYTES = 64 * 1024**3
"""Of one file of lines, unpacked."""
JSON_LINES, GZIPPED, CSV, PARQUET = ".jsonl", ".jsonl.gz", ".csv", ".parquet"

_BATCH_ROWS = 128
# Column chunks are read through a buffer of this size and not whole.
_BUFFER_BYTES = 1024**2


class LocalIndexError(ValueError):
    """A local search folder that cannot be used; the message names the file and the remedy."""


Row = tuple[str, Mapping[str, Any]]
"""Where a row stands (`FILE:ROW`, counted from 1), and its fields."""


def read_rows(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    """The rows of a file, in order; its suffix says what it is. Blank lines are passed over but counted.

    Args:
        path: the file.
        fields: what is wanted of a row. CSV and parquet rows hold no others; a JSON object may.

    Raises:
        LocalIndexError: a broken file or row; says where.
    """
    name = path.name
    try:
        if name.endswith(PARQUET):
            yield from _parquet_rows(path, fields)
        elif name.endswith(CSV):
            yield from _csv_rows(path, fields)
        elif name.endswith((JSON_LINES, GZIPPED)):
            yield from _json_rows(path)
        else:
            raise LocalIndexError(f"{path}: must end in {JSON_LINES}, {GZIPPED}, {CSV} or {PARQUET}")
    except OSError as error:
        raise LocalIndexError(f"{path}: cannot be read ({error})") from error


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line.decode("utf-8"), max_chars=MAX_LINE_BYTES, max_depth=MAX_DEPTH, constants=True)
        except (UnicodeDecodeError, JsonRefused) as error:
            raise LocalIndexError(f"{where}: cannot be read as JSON ({error})") from error
        if not isinstance(row, Mapping):
            raise LocalIndexError(f"{where}: must be an object, one a line")
        yield where, row


def _csv_rows(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    place = [0]

    def texts() -> Iterator[str]:
        for number, line in _lines(path):
            place[0] = number
            yield line.decode("utf-8")

    reader = csv.reader(texts(), strict=True)
    names: list[str] | None = None
    try:
        for cells in reader:
            where = f"{path}:{place[0]}"
            if not cells:
                continue
            if names is None:
                names = [name.strip() for name in cells]
                continue
            if len(cells) != len(names):
                raise LocalIndexError(f"{where}: {len(cells)} cells under {len(names)} columns")
            yield where, {name: cell for name, cell in zip(names, cells, strict=True) if name in fields}
    except (UnicodeDecodeError, csv.Error) as error:
        raise LocalIndexError(f"{path}:{place[0]}: cannot be read as CSV ({error})") from error


def _parquet_rows(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
            columns = [name for name in file.schema_arrow.names if name in fields]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    # Broken pages come as OSError, broken text in them as UnicodeDecodeError, impossible sizes as the other two.
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise LocalIndexError(f"{path}:{number + 1}: here or soon after, not readable as parquet ({error})") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, a byte order mark taken off; one too long, and a file too long, is refused as soon as seen."""
    number = total = 0
    with closing(_opened(path)) as file:
        while True:
            try:
                line = file.readline(MAX_LINE_BYTES + 1)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise LocalIndexError(f"{path}:{number + 1}: damaged gzip ({error})") from error
            if not line:
                return
            number += 1
            total += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise LocalIndexError(f"{path}:{number}: a line longer than {MAX_LINE_BYTES} bytes")
            if total > MAX_FILE_BYTES:
                raise LocalIndexError(f"{path}:{number}: more than {MAX_FILE_BYTES} bytes up to here")
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _opened(path: Path) -> BinaryIO:
    if path.name.endswith(GZIPPED):
        return gzip.open(path, "rb")  # type: ignore[return-value]  # a reader of bytes, whatever its class
    return path.open("rb")
