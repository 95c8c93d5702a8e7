"""The report of stage 1a: counts that add up, and agreement with the data set's own marks.

What would go unseen otherwise: a table whose rows leave entities out, or a tag that finds none of its entities and
therefore is not even mentioned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sake_ray.coldstart.difficulty import EntityTag
from sake_ray.coldstart.tag_report import TagReport
from sake_ray.types import Difficulty, Example
from tests.sake_ray.coldstart.posts import ADA, AMBIGUOUS, KNOWN, OSLO, UNKNOWN, post

RIGHT, NEVER, ONCE = EntityTag(2, 2, 2, 2), EntityTag(2, 0, 1, 0), EntityTag(2, 1, 1, 1)
OF_TAG = {RIGHT: KNOWN, NEVER: UNKNOWN, ONCE: AMBIGUOUS}


def report_of(*found: Sequence[tuple[Difficulty | None, EntityTag]], malformed: int = 0) -> TagReport:
    """One post for each list of (the data set's own mark, tag)."""
    kinds = (ADA, OSLO)
    examples: list[Example] = [
        post(*(replace(kinds[at % 2], difficulty=mark) for at, (mark, _) in enumerate(pairs)), name=f"p{number}")
        for number, pairs in enumerate(found)
    ]
    tags = [[tag for _, tag in pairs] for pairs in found]
    tagged = [
        replace(
            example, entities=tuple(replace(e, difficulty=OF_TAG[t]) for e, t in zip(example.entities, ts, strict=True))
        )
        for example, ts in zip(examples, tags, strict=True)
    ]
    return TagReport.of(examples, tags, tagged, n=2, malformed=malformed)


FOUND: list[list[tuple[Difficulty | None, EntityTag]]] = [
    [(KNOWN, RIGHT), (UNKNOWN, NEVER)],
    [(KNOWN, NEVER), (UNKNOWN, ONCE), (KNOWN, RIGHT)],
    [(KNOWN, ONCE)],
    [(None, RIGHT)],
    [],
]


def test_counts_add_up() -> None:
    report = report_of(*FOUND, malformed=3)
    assert report.by_type == {
        "LOC": {"known": 0, "ambiguous": 1, "unknown": 1},
        "PER": {"known": 3, "ambiguous": 1, "unknown": 1},
    }
    assert report.by_search == {"None": 5, "only_text": 2, "only_image": 0, "both": 0}
    assert report.posts == {"known": 1, "ambiguous": 1, "unknown": 2, "no entity": 1}
    assert report.hits == {
        "hits": {0: 2, 1: 2, 2: 3},
        "hit_text": {0: 2, 1: 2, 2: 3},
        "hit_image": {0: 0, 1: 4, 2: 3},
    }
    assert (report.malformed, report.sampled) == (3, 10)
    assert sum(sum(row.values()) for row in report.marks.values()) == 6  # one entity has no mark
    lines = {line[:24].strip(): line[24:].split() for line in report.table().splitlines()}
    assert lines["all types"] == ["3", "2", "2", "7"]
    assert lines["posts"] == ["1", "1", "2", "5"]


def test_precision_and_recall_are_against_the_marks() -> None:
    """Said known: 2, both marked so, of 4; said unknown: 2, of which one is marked so, of 2."""
    assert report_of(*FOUND).agreement() == {
        "known": {"precision": 1.0, "recall": 0.5},
        "unknown": {"precision": 0.5, "recall": 0.5},
    }


def test_a_class_that_is_never_found_is_shown_and_one_that_does_not_exist_is_not() -> None:
    assert report_of([(UNKNOWN, RIGHT)]).agreement() == {"unknown": {"precision": 0.0, "recall": 0.0}}
    assert report_of([(None, RIGHT)]).agreement() == {}


def test_the_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = report_of(*FOUND)
    report.write(tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["agreement"] == report.agreement()
    assert written["by_type"] == report.by_type
    assert written["hits"]["hits"] == {"0": 2, "1": 2, "2": 3}
    assert report.table() in (tmp_path / "report.md").read_text()
    assert (tmp_path / "hits.png").read_bytes().startswith(b"\x89PNG")
