"""Trackers: chosen by name, refused early, and a resumed run's curve has every step once."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from sake_ray.tracking import TensorBoardTracker, make_trackers


def make(backends: str, run_dir: Path, resume_after: int | None = None) -> list[Any]:
    config = {"run": {"seed": 3}}
    return list(make_trackers(backends, project="p", run_dir=run_dir, config=config, resume_after=resume_after))


def test_no_backend_is_no_tracker_and_makes_nothing(tmp_path: Path) -> None:
    assert make("", tmp_path) == make(" , ", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_or_missing_backend_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'mlflow' is not one of tensorboard, wandb"):
        make("mlflow,tensorboard", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="wandb is not installed"):
        make("wandb", tmp_path)


def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path: Path) -> None:
    """Steps 3 and 4 were run before a crash and are run again: the second time counts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (first,) = make("tensorboard", tmp_path)
    assert isinstance(first, TensorBoardTracker)
    for step in range(1, 5):
        first.log({"train/loss": step}, step)
    (second,) = make("tensorboard", tmp_path, resume_after=2)
    for step in (3, 4):
        second.log({"train/loss": 10 * step}, step)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "k"}, "online"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "disabled"),
    ],
)
def test_wandb_is_offline_unless_there_is_a_key_or_a_wish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], mode: str
) -> None:
    started: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, float], int]] = []

    def init(**options: Any) -> Any:
        started.append(options)
        return types.SimpleNamespace(log=lambda metrics, step: logged.append((metrics, step)))

    # A stand-in: the real one is slow to import and starts a process.
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(module, "init", init, raising=False)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    (tracker,) = make("wandb", tmp_path)
    tracker.log({"train/loss": 0.5}, 4)
    assert started == [
        {"project": "p", "name": tmp_path.name, "dir": str(tmp_path), "config": {"run": {"seed": 3}}, "mode": mode}
    ]
    assert logged == [({"train/loss": 0.5}, 4)]
