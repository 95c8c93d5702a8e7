"""Files are read value by value with the right line, under limits, and never half understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sake_ray.data.json_files import parse_json, read_object, read_values
from sake_ray.data.problems import DataError, FieldError, ProblemLog

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file.json"
    path.write_bytes(text.encode())
    return path


@settings(max_examples=40)  # three files an example
@given(rows=st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=6))
def test_lists_and_lines_give_the_same_values(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("values")
    # ensure_ascii=False: U+2028 and U+0085 in posts must not be taken for ends of lines.
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert list(read_values(_write(folder, lines), ProblemLog("stop"))) == list(enumerate(rows, start=1))
    for indent in (None, 2):
        pretty = json.dumps(rows, ensure_ascii=False, indent=indent)
        read = list(read_values(_write(folder, pretty), ProblemLog("stop")))
        assert [value for _, value in read] == rows
        if indent:
            starts = [line + 1 for line, text in enumerate(pretty.split("\n")) if text.startswith("  {")]
            assert [line for line, _ in read] == starts


@given(st.text(alphabet='[]{}",:\\ntrue0-1.eE \u2028', max_size=60))
def test_any_text_is_a_value_or_a_field_error(text: str) -> None:
    try:
        value = parse_json(text)
    except FieldError:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 40 + "]" * 40, "deeper"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ("[NaN]", "NaN"),
        ('{"a": 1} x', "more text"),
        ('{"a": ', "column"),
        ("1" * 5000, "broken"),
    ],
)
def test_what_is_refused_and_why(text: str, says: str) -> None:
    with pytest.raises(FieldError, match=says):
        parse_json(text)


def test_brackets_inside_strings_are_not_depth() -> None:
    assert parse_json(json.dumps(["[" * 100, '\\"[[[']))[0] == "[" * 100


def test_a_value_over_the_size_limit_is_refused(tmp_path: Path) -> None:
    for text in (json.dumps("x" * 200), json.dumps(["x"] * 100), "9" * 200, '"' + "x" * 200):
        with pytest.raises(FieldError, match="longer"):
            parse_json(text, max_chars=100)
    with pytest.raises(DataError, match=r"file\.json.*longer"):
        list(read_values(_write(tmp_path, json.dumps("x" * 200)), max_value_chars=100))
    assert list(read_values(_write(tmp_path, json.dumps("x" * 200)), max_value_chars=300)) == [(1, "x" * 200)]


def test_a_broken_line_is_a_problem_of_that_line_alone(tmp_path: Path) -> None:
    path = _write(tmp_path, '{"a": 1}\n{"a": \n\n{"a": 3}')
    log = ProblemLog("skip")
    assert [line for line, _ in read_values(path, log)] == [1, 4]
    assert [(problem.line, problem.field) for problem in log.problems] == [(2, "json")]
    with pytest.raises(DataError, match=r"file\.json:2: json.*on_bad=skip"):
        list(read_values(path, ProblemLog("stop")))
    with pytest.raises(DataError, match=r"file\.json:2: json(?!.*on_bad)"):  # nobody logs it: no line may be missing
        list(read_values(path))


@pytest.mark.parametrize("text", ['[{"a": 1},\n{"a": }]', '[{"a": 1}\n{"a": 2}]', '[{"a": 1},\n', '[{"a": 1}\n] 2'])
def test_a_broken_list_stops_even_when_bad_posts_are_skipped(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"line 2|json:2"):
        list(read_values(_write(tmp_path, text), ProblemLog("skip")))


def test_other_encodings_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "\xe9"}')
    with pytest.raises(DataError, match=r"latin\.jsonl:2: not UTF-8"):
        list(read_values(path, ProblemLog("skip")))


@given(value=VALUES)
def test_a_file_of_one_object_is_that_object_and_nothing_else_is(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    path = _write(tmp_path_factory.getbasetemp(), json.dumps(value))
    if isinstance(value, dict):
        assert read_object(path) == value
    else:
        with pytest.raises(DataError, match=r"file\.json: must hold a JSON object"):
            read_object(path)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1} {}', '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 200])
def test_a_file_that_is_no_object_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"file\.json"):
        read_object(_write(tmp_path, text))
    with pytest.raises(DataError, match="no such file"):
        read_object(tmp_path / "none.json")
