"""The report at a run's end shows what `metrics.jsonl` holds, under a name that is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sake_ray.report import Row, draw_curves, read_metrics, table_text


def evaluation(step: int, f1: float, **more: float) -> Row:
    return {"step": step, "eval/gmner_f1": f1} | {f"eval/{name}": value for name, value in more.items()}


def test_the_table_compares_the_first_evaluation_with_the_last() -> None:
    rows = [
        evaluation(0, 0.5, mner_f1=0.75, search_on_unknown=0.9),
        evaluation(10, 0.1),
        {"step": 15, "reward/total": 0.3},
        evaluation(20, 0.625, mner_f1=0.5, answered=1.0),
        {"step": 21, "reward/total": 0.4},
    ]
    lines = table_text(rows).splitlines()
    assert lines[0].split() == ["held-out", "posts", "cold", "start", "RL", "step", "20", "change"]
    assert [line.split()[-3:] for line in lines[1:]] == [["0.500", "0.625", "+0.125"], ["0.750", "0.500", "-0.250"]]


def test_a_single_evaluation_is_not_called_the_cold_start() -> None:
    """`trainer.eval_every=0` evaluates at the end only."""
    text = table_text([{"step": 1, "reward/total": 0.3}, evaluation(24, 0.625)])
    assert "RL step 24" in text and "0.625" in text
    assert "cold start" not in text and "change" not in text


def test_a_run_whose_evaluations_were_all_stopped_says_so() -> None:
    assert "no evaluation" in table_text([{"step": 1, "reward/total": 0.3}])
    assert "no evaluation" in table_text([])


def test_metrics_are_read_in_order_and_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "reward/total": step / 2} for step in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_metrics(path) == rows
    path.write_text('{"step": 0}\n{"step": 1')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not JSON"):
        read_metrics(path)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [evaluation(0, 0.5, gmner_f1_unseen=0.2), {"step": 1, "search/on_unknown": 1.0}, evaluation(2, 0.7)],
    ],
)
def test_curves_are_drawn_from_whatever_was_measured(tmp_path: Path, rows: list[Row]) -> None:
    draw_curves(rows, tmp_path / "curves.png", "a run")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
