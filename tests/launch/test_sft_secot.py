"""The cold start's entry script around the training: what it asks for, what it hands over, what it shows at the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from actors import sft_trainer
from actors.sft_trainer import SftResult
from launch import sft_secot
from launch.display import RunDisplay
from launch.starting import base_model_folder
from sake_ray.config.load import resolve
from sake_ray.config.plan import describe_plan
from sake_ray.config.values import ConfigError


def work(run_dir: Path, *words: str) -> None:
    config = resolve([f"run.dir={run_dir}", *words], job="sft_secot")
    asyncio.run(sft_secot.cold_start(config, run_dir, RunDisplay(run_dir, 0)))


def test_it_takes_the_learner_ranks_and_nothing_else() -> None:
    assert [row.actor for row in describe_plan(resolve(["learner.ranks=2"], job="sft_secot"))] == ["learner"]


def test_the_trajectories_must_be_named_and_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"secot\.dir=: .*build_secot"):
        work(tmp_path)
    with pytest.raises(ConfigError, match=r"secot\.dir=.*nowhere: no such folder"):
        work(tmp_path, f"secot.dir={tmp_path}/nowhere")


class FakeTraining:
    """Trains nothing; writes three rows and tells of them."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    async def __call__(self, config: object, **asked: Any) -> SftResult:
        self.asked = asked
        rows = [
            {"step": 0.0, "eval/loss": 4.0},
            {"step": 1.0, "train/loss": 3.0},
            {"step": 2.0, "train/loss": 2.0, "eval/loss": 2.5},
        ]
        run_dir: Path = asked["run_dir"]
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        on_step: Callable[[int, int, Mapping[str, float]], None] = asked["on_step"]
        for row in rows:
            on_step(int(row["step"]), 2, row)
        return SftResult(run_dir / "policy", 2, 9, 1, {"train/loss": 2.0})


def test_it_trains_the_base_model_on_them_and_shows_the_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training = FakeTraining()
    monkeypatch.setattr(sft_trainer, "fine_tune", training)
    (tmp_path / "secot").mkdir()
    with caplog.at_level("INFO"):
        work(tmp_path, f"secot.dir={tmp_path}/secot")
    assert training.asked["model"] == base_model_folder()
    assert training.asked["data"] == tmp_path / "secot"
    assert training.asked["run_dir"] == tmp_path
    assert "2 steps on 9 trajectories (1 held out)" in caplog.text
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["stage"], progress["done"], progress["total"]) == ("cold start", 2, 2)


def test_the_table_has_first_lowest_and_last(tmp_path: Path) -> None:
    rows = [{"step": 0, "eval/loss": 4.0}, {"step": 1, "eval/loss": 1.0}, {"step": 2, "eval/loss": 1.5}]
    (line,) = sft_secot.loss_table(rows).splitlines()[1:]
    assert line.split()[-3:] == ["4.0000", "1.0000", "1.5000"]
