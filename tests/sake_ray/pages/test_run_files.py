"""A run's files are read while they are written, and of a big one only what a page can hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sake_ray.data.problems import DataError
from sake_ray.pages.run_files import read_lines, read_steps, run_pixels
from tests.sake_ray.pages.page_case import PIXELS, make_row

LIMITS = (PIXELS["min_pixels"], PIXELS["max_pixels"])


def trajectories(path: Path, steps: int, each: int = 3) -> Path:
    rows = [make_row(n, step) for step in range(1, steps + 1) for n in range(each)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_some_steps_are_taken_with_the_first_and_the_last(tmp_path: Path) -> None:
    path = trajectories(tmp_path / "t.jsonl", 40)
    found = read_steps(path, LIMITS, steps=5, rows=1_000)
    assert len(found.steps) == 40 and len(found.taken) == 5
    assert {found.taken[0], found.taken[-1]} == {1, 40}
    assert len(found.rows) == 15 and {row.step for row in found.rows} == set(found.taken)


def test_big_groups_mean_fewer_steps_but_never_none(tmp_path: Path) -> None:
    path = trajectories(tmp_path / "t.jsonl", 6, each=10)
    assert len(read_steps(path, LIMITS, steps=6, rows=25).taken) == 2
    assert read_steps(path, LIMITS, steps=6, rows=1).taken == (6,)


def test_steps_can_be_asked_for_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = trajectories(tmp_path / "t.jsonl", 9)
    assert read_steps(path, LIMITS, steps=2, rows=1, wanted=[7, 3, 5]).taken == (3, 5, 7)
    with pytest.raises(DataError, match="has no step 12; it has 1, 2"):
        read_steps(path, LIMITS, steps=2, rows=1, wanted=[12])


def test_a_line_that_is_still_being_written_is_left_alone_and_a_broken_one_is_named(tmp_path: Path) -> None:
    path = trajectories(tmp_path / "t.jsonl", 2)
    with path.open("a") as file:
        file.write('{"step": 3, "kind": "tr')
    assert read_steps(path, LIMITS, steps=9, rows=99).steps == (1, 2)
    path.write_text('{"step": 1}\n{"kind": "train"}\n')
    with pytest.raises(DataError, match=r"t\.jsonl:2: not a row with a step"):
        read_steps(path, LIMITS, steps=9, rows=99)
    path.write_text('{"step": 1, "turns": 5}\n')
    with pytest.raises(DataError, match=r"t\.jsonl:1: turns"):
        read_steps(path, LIMITS, steps=9, rows=99)


def test_no_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read_steps(tmp_path / "none", None, steps=1, rows=1).rows == ()
    assert read_lines(tmp_path / "none") == [] and run_pixels(tmp_path / "none") is None


def test_metrics_of_a_run_that_goes_on_are_read_up_to_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 2}\n{"step": 2, "a')
    assert read_lines(path) == [{"step": 1, "a": 2}]
