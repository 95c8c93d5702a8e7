"""`launch/report.py`: pages from folders, and one sentence on what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.report import main, verdicts
from rewards.evaluation.report import post_rows, records_of_rows
from sake_ray.pages.rows import read_view
from tests.sake_ray.pages.page_case import PIXELS, make_evaluation, make_row, make_run


def test_a_runs_page_and_trace_are_made_and_nothing_else_changes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", 3)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert main([f"run={run}"]) == 0
    assert {path.name for path in (run / "report").iterdir()} == {"report.html", "trace.json"}
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    page = (run / "report" / "report.html").read_text()
    assert "0.750" in page and "Reward of training groups" in page and 'id="gallery-index"' in page
    events = json.loads((run / "report" / "trace.json").read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == 9, "three phases in three steps"


def test_an_evaluations_page_lies_in_its_folder(tmp_path: Path) -> None:
    folder = make_evaluation(tmp_path / "e", 5)
    assert main([f"evaluation={folder}"]) == 0
    page = (folder / "report.html").read_text()
    assert "GMNER, release" in page and "MCR" in page and "0123abcd" in page


def test_a_page_gives_the_verdicts_that_an_evaluation_counts() -> None:
    limits = (PIXELS["min_pixels"], PIXELS["max_pixels"])
    rows = [make_row(number, member=member) for number in range(10) for member in range(3)]
    for row in rows:
        counted = post_rows(records_of_rows([row], **PIXELS))[0]["verdicts"]
        shown = verdicts(read_view(row, limits))
        assert {(mark.kind, mark.gold, mark.claim) for mark in shown} == {
            (v["kind"], v["gold"], v["claim"]) for v in counted
        }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of run=DIR and evaluation=DIR"),
        (["run=a", "evaluation=b"], "give one of"),
        (["run={tmp}/none"], "holds no metrics.jsonl"),
        (["evaluation={tmp}/none"], "no such file"),
        (["run={tmp}/r", "steps=1,x"], "must be step numbers"),
        (["run={tmp}/r", "steps=9"], "has no step 9; it has 1, 2"),
        (["run={tmp}/r", "images={tmp}/none"], "no such folder"),
        (["evaluation={tmp}/e", "steps=1"], "only with run=DIR"),
        (["run={tmp}/broken"], "trajectories.jsonl:1: not JSON"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_leaves_no_page(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "r", 2)
    (make_run(tmp_path / "broken", 1) / "trajectories.jsonl").write_text("{\n")
    assert main([word.format(tmp=tmp_path) for word in words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.startswith("report: ") and told.count("\n") == 1
    assert not list(tmp_path.rglob("report.html"))
