"""JSON from files nobody vouches for: a list or JSON lines, value by value with its line, under limits.

One value is read by `sake_ray.bounded_json`. Knows nothing of what the values mean. Always holds: size, depth and
number of values are bounded before anything is built, a key occurs once in an object, and NaN or Infinity is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sake_ray import bounded_json
from sake_ray.bounded_json import JsonRefused, decode_strictly, skip_blank
from sake_ray.data.problems import DataError, FieldError, Problem, ProblemLog

MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_VALUE_CHARS = 1024 * 1024
MAX_VALUES = 1_000_000
MAX_DEPTH = 16


def read_text(path: Path, max_bytes: int = MAX_FILE_BYTES) -> str:
    """A whole UTF-8 file.

    Raises:
        DataError: the file is missing, too large or not UTF-8.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    size = path.stat().st_size
    if size > max_bytes:
        raise DataError(f"{path}: {size} bytes are more than the {max_bytes} a data file may have; split the file")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 (byte {error.start}: {error.reason}); re-encode it") from error


def parse_json(text: str, *, field: str = "json", max_chars: int = MAX_VALUE_CHARS) -> Any:
    """One JSON value.

    Raises:
        FieldError: the text is too long, nested too deep, or no JSON.
    """
    try:
        return bounded_json.parse_json(text, max_chars=max_chars, max_depth=MAX_DEPTH, unique_keys=True)
    except JsonRefused as error:
        raise FieldError(field, str(error)) from error


def read_object(path: Path, *, max_chars: int = MAX_VALUE_CHARS) -> dict[str, Any]:
    """The one JSON object of a file of at most `max_chars` characters.

    Raises:
        DataError: the file is missing, too large or not UTF-8, or holds something else.
    """
    try:
        value = parse_json(read_text(path), max_chars=max_chars)
    except FieldError as error:
        raise DataError(f"{path}: {error.message}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold a JSON object")
    return value


def read_values(
    path: Path, log: ProblemLog | None = None, *, max_value_chars: int = MAX_VALUE_CHARS
) -> Iterator[tuple[int, Any]]:
    """The values of a JSON list or of a JSON-lines file, each with the line it starts on.

    A broken line of a JSON-lines file is a problem of that line; without a `log` it raises, for files none of whose
    lines may be missing. A syntax error inside a JSON list makes the rest unreadable, so it raises whatever `on_bad`
    says.

    Raises:
        DataError: the file is missing, too large, not UTF-8, a broken list, or a line is broken and nobody logs it.
    """
    text = read_text(path)
    if text[skip_blank(text, 0) :][:1] == "[":
        yield from _list_values(path, text, max_value_chars)
    else:
        yield from _line_values(path, text, log, max_value_chars)


def write_whole(path: Path, text: str) -> None:
    """Write a text: a reader sees the old file or the new one, whole."""
    scratch = path.with_name(f"{path.name}.unfinished")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object, as `write_whole` does."""
    write_whole(path, json.dumps(dict(content), indent=1) + "\n")


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON lines: the whole file, or none of it."""
    scratch = path.with_name(f"{path.name}.unfinished")
    scratch.unlink(missing_ok=True)
    append_lines(scratch, rows)
    os.replace(scratch, path)


def append_lines(path: Path, rows: Iterable[Any]) -> None:
    """Add JSON lines to a file; they are on disk when this returns."""
    # A lone surrogate, which UTF-8 cannot hold, becomes `\\udXXX`: JSON's own way to write it.
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _line_values(path: Path, text: str, log: ProblemLog | None, max_chars: int) -> Iterator[tuple[int, Any]]:
    # Lines end at "\n" only: posts hold characters (U+0085, U+2028 …) that str.splitlines would cut at.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip(" \t\r"):
            continue
        if number > MAX_VALUES:
            raise DataError(f"{path}:{number}: more than {MAX_VALUES} lines; split the file")
        try:
            value = parse_json(line, max_chars=max_chars)
        except FieldError as error:
            problem = Problem(str(path), number, error.field, error.message)
            if log is None:
                raise DataError(str(problem)) from error
            log.add(problem)
            continue
        yield number, value


def _list_values(path: Path, text: str, max_chars: int) -> Iterator[tuple[int, Any]]:
    at = skip_blank(text, skip_blank(text, 0) + 1)
    line, counted, values = 1, 0, 0
    if text[at : at + 1] == "]":
        _check_end(path, text, at + 1)
        return
    while True:
        line += text.count("\n", counted, at)
        counted = at
        values += 1
        if values > MAX_VALUES:
            raise DataError(f"{path}:{line}: more than {MAX_VALUES} values; split the file")
        try:
            value, end = _decode(text, at, "json", max_chars)
        except FieldError as error:
            raise DataError(f"{path}: element {values}, which starts on line {line}: {error.message}") from error
        yield line, value
        at = skip_blank(text, end)
        mark = text[at : at + 1]
        if mark == "]":
            _check_end(path, text, at + 1)
            return
        if mark != ",":
            where = text.count("\n", 0, at) + 1
            raise DataError(f"{path}:{where}: json: expected ',' or ']' after element {values} of the list")
        at = skip_blank(text, at + 1)


def _check_end(path: Path, text: str, at: int) -> None:
    rest = skip_blank(text, at)
    if rest != len(text):
        raise DataError(f"{path}:{text.count(chr(10), 0, rest) + 1}: json: more text after the end of the list")


def _decode(text: str, at: int, field: str, max_chars: int) -> tuple[Any, int]:
    try:
        return decode_strictly(text, at, max_chars=max_chars, max_depth=MAX_DEPTH)
    except JsonRefused as error:
        raise FieldError(field, str(error)) from error
