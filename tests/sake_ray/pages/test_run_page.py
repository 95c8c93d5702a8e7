"""A run's page tells what the run's files do, whatever of them there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from launch.report import verdicts
from sake_ray.config.config import Config, settings_hash
from sake_ray.pages import run_page
from tests.sake_ray.pages.page_case import make_run


def page_of(run: Path) -> str:
    return run_page.write(run, run / "report", mark=verdicts).read_text(encoding="utf-8")


def test_settings_read_from_a_file_have_the_hash_of_the_run() -> None:
    config = Config()
    assert settings_hash(json.loads(json.dumps(config.to_dict()))) == config.config_hash


def test_metrics_alone_make_a_page(tmp_path: Path) -> None:
    run = tmp_path / "r"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "reward/total": 0.5, "train/new_metric": 3}\n')
    page = page_of(run)
    assert "No evaluation was made" in page and "no alerts.jsonl" in page and "no config.json" in page
    assert "new metric" in page, "what no plot names is drawn too"
    assert 'id="cards"' not in page


def test_a_timeline_is_drawn_by_who_did_what(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", 2)
    rows = [
        {"step": step, "name": name, "who": who, "begin_s": 1e9 + step * 5, "end_s": 1e9 + step * 5 + 2}
        for step in (1, 2)
        for name, who in (("generate", "rollout-0"), ("search", "rollout-0"), ("update", "learner"))
    ]
    (run / "timeline.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(run)
    assert "rollout-0 search" in page and "learner update" in page and "end to end" not in page
    events = json.loads((run / "report" / "trace.json").read_text())["traceEvents"]
    assert {(e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"} == {
        (name, (step - 1) * 5e6, 2e6) for step in (1, 2) for name in ("generate", "search", "update")
    }


def test_a_long_run_is_drawn_in_few_points_and_says_what_one_stands_for(tmp_path: Path) -> None:
    run = tmp_path / "r"
    run.mkdir()
    lines = [json.dumps({"step": step, "reward/total": float(step % 2)}) for step in range(1, 3_001)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    page = page_of(run)
    drawn = re.search(r'data-points="([^"]*)"', page)
    assert drawn is not None
    points = json.loads(drawn[1].replace("&quot;", '"'))[0][1]
    assert len(points) == 300 and {y for _, y in points} == {0.5}
    assert "Each point is the mean of 10 steps." in page
    assert len(page) < 200_000


def test_the_gallery_says_which_steps_it_took(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "r", 40, posts=1, members=2))
    told = re.search(r"Of 40 training steps with trajectories these are here: ([\d, ]+) ", page)
    assert told is not None
    taken = [int(step) for step in told[1].split(",")]
    assert len(taken) == 12 and taken[0] == 1 and taken[-1] == 40
