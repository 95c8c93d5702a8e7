"""The collapse guard: silent on runs that learn, a sentence for each way a run goes wrong, also after a resume."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.config.guard_section import GuardConfig
from sake_ray.trainer.guard import NAMES, NOT_FINITE, Alert, CollapseGuard

SETTINGS = GuardConfig()
HEALTHY = {
    "search/episodes": 0.5,
    "search/on_unknown": 0.8,
    "search/on_known": 0.02,
    "search/failed": 0.01,
    "rollout/groups": 12.0,
    "rollout/zero_signal_groups": 10.0,
    "rollout/stop_answer": 0.9,
    "rollout/sampled_tokens": 30.0,
    "train/entropy": 0.1,
    "train/kl": 0.05,
    "train/mismatch_mean": 0.004,
    "train/is_weight": 1.0,
    "train/grad_norm": 0.5,
}
# What each rule must speak of: the rule, and what becomes of a healthy step.
COLLAPSES: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("search_died", {"search/on_unknown": 0.0}),
    ("search_always", {"search/on_known": 1.0, "search/episodes": 1.0}),
    ("no_signal", {"rollout/groups": 1.0, "rollout/zero_signal_groups": 15.0}),
    ("entropy", {"train/entropy": 0.005}),
    ("entropy", {"train/entropy": 0.0099}),
    ("mismatch", {"train/mismatch_mean": 0.5}),
    ("kl", {"train/kl": 30.0}),
    ("answers", {"rollout/stop_answer": 0.4}),
    ("length", {"rollout/sampled_tokens": 3.0}),
    ("length", {"rollout/sampled_tokens": 900.0}),
    ("failed_searches", {"search/failed": 0.9}),
)
RUNS: dict[str, list[dict[str, float]]] = json.loads((Path(__file__).parent / "guard_runs.json").read_text())


def watch(steps: Sequence[Mapping[str, float]], settings: GuardConfig = SETTINGS) -> list[Alert]:
    guard = CollapseGuard(settings)
    return [alert for step, metrics in enumerate(steps, start=1) for alert in guard.check(step, metrics)]


@pytest.mark.parametrize("run", ["recorded", "learns"])
def test_a_run_that_learns_is_left_alone(run: str) -> None:
    """Runs on MiniWorld, as they were logged; the first is six steps long and rough, the other forty."""
    assert watch(RUNS[run]) == []
    assert watch([HEALTHY] * 20) == []


def test_a_run_that_unlearned_to_search_is_caught_early() -> None:
    """Difficulty tags dealt out at random: searching never paid; by its end hardly a group had a signal."""
    assert [(alert.step, alert.name) for alert in watch(RUNS["random tags"])] == [(5, "search_died"), (27, "no_signal")]


@pytest.mark.parametrize(("name", "bad"), COLLAPSES)
def test_each_collapse_is_said_once_with_its_value_threshold_and_where_to_look(
    name: str, bad: Mapping[str, float]
) -> None:
    steps = [HEALTHY] * 6 + [{**HEALTHY, **bad}] * 9
    (alert,) = watch(steps)
    assert (alert.step, alert.name, alert.action) == (6 + SETTINGS.patience, name, "warn")
    assert alert.value in bad.values() or name == "no_signal"
    for words in ("guard.", "3 steps in a row; look at "):
        assert words in alert.message
    assert json.loads(json.dumps(alert.row(), allow_nan=False))["threshold"] == alert.threshold


def test_every_rule_can_be_turned_off_and_so_can_all() -> None:
    off = GuardConfig(
        search_low=0, search_high=0, no_signal=0, entropy_low=0, entropy_fall=0, mismatch_high=0, kl_high=0,
        answers_low=0, answers_fall=0, length_change=0, failed_high=0, not_finite=False,
    )  # fmt: skip
    for name, bad in COLLAPSES:
        steps = [HEALTHY] * 6 + [{**HEALTHY, **bad}] * 9
        assert watch(steps, off) == []
        assert watch(steps, replace(SETTINGS, action="off")) == []
        assert name in NAMES
    assert watch([{"train/loss": math.nan}], off) == []


def test_posts_without_tags_are_judged_by_all_episodes_and_tagged_ones_never_are() -> None:
    untagged = {name: value for name, value in HEALTHY.items() if not name.startswith("search/on_")}
    assert [a.name for a in watch([{**untagged, "search/episodes": 0.0}] * 4)] == ["search_died"]
    assert [a.name for a in watch([{**untagged, "search/episodes": 1.0}] * 4)] == ["search_always"]
    only_known = {**untagged, "search/on_known": 0.0, "search/episodes": 0.0}
    only_unknown = {**untagged, "search/on_unknown": 1.0, "search/episodes": 1.0}
    assert watch([only_known] * 9) == watch([only_unknown] * 9) == []


def test_a_number_that_is_not_finite_is_said_at_once_and_spoils_no_mean() -> None:
    broken = {**HEALTHY, "train/grad_norm": math.inf, "train/entropy": math.nan}
    first, *rest = watch([broken, *[HEALTHY] * 9])
    assert (first.step, first.name, rest) == (1, NOT_FINITE, [])
    assert "train/grad_norm=inf" in first.message and "train/entropy=nan" in first.message
    assert first.row()["value"] is None
    (told,) = CollapseGuard(SETTINGS).broke(7, FloatingPointError("the gradient norm is nan"))
    assert (told.step, told.name) == (7, NOT_FINITE) and "gradient norm is nan" in told.message


@given(
    kinds=st.lists(st.sampled_from(["good", "bad", "silent"]), max_size=40),
    patience=st.integers(1, 5),
    cut=st.integers(0, 40),
)
def test_patience_counts_bad_steps_in_a_row_and_survives_a_resume(kinds: list[str], patience: int, cut: int) -> None:
    """Silent steps (no post with a tag came up) neither count nor break a row; a good one starts anew."""
    made = {
        "good": HEALTHY,
        "bad": {**HEALTHY, "search/on_unknown": 0.0},
        "silent": {name: value for name, value in HEALTHY.items() if name != "search/on_unknown"},
    }
    settings = replace(SETTINGS, patience=patience)
    guard, told, lasting = CollapseGuard(settings), [], []
    for step, kind in enumerate(kinds):
        if step == cut:
            state = json.loads(json.dumps(guard.state_dict()))
            guard = CollapseGuard(settings)
            guard.load_state_dict(state)
        told += [alert.step for alert in guard.check(step, made[kind])]
        lasting.append(guard.lasting)
    expected, row, active = [], 0, []
    for step, kind in enumerate(kinds):
        row = 0 if kind == "good" else row + (kind == "bad")
        if kind == "bad" and row == patience:
            expected.append(step)
        active.append(int(row >= patience))
    assert (told, lasting) == (expected, active)


def test_after_a_stop_a_run_that_goes_on_is_given_its_patience_anew() -> None:
    stopping = replace(SETTINGS, action="stop")
    alerts = watch([{**HEALTHY, "train/kl": 30.0}] * 10, stopping)
    assert [(alert.step, alert.action) for alert in alerts] == [(3, "stop"), (6, "stop"), (9, "stop")]
