"""The collapse guard: says, from the metrics of each step, when a policy goes wrong.

Knows metrics' names and `GuardConfig` and nothing of the loop, files or logs. Always holds: a rule speaks once it has
been broken `guard.patience` steps in a row, and not again before a step that keeps it; a step whose metrics say nothing
of a rule (nothing was trained, no such post came up) neither counts nor ends the row; the state is JSON, so a resumed
run says what an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sake_ray.config.guard_section import GuardConfig

Metrics = Mapping[str, float]

ENTROPY, ANSWERS, LENGTH = "train/entropy", "rollout/stop_answer", "rollout/sampled_tokens"
_COMPARED = (ENTROPY, ANSWERS, LENGTH)


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule was broken for long enough. `value` of the step, the `threshold` it passed, and what is done about it."""

    step: int
    name: str
    message: str
    value: float
    threshold: float
    action: str

    def row(self) -> dict[str, Any]:
        """A line of `alerts.jsonl`; a value that is not finite, which JSON does not have, is null."""
        value = self.value if math.isfinite(self.value) else None
        return {
            "step": self.step, "name": self.name, "message": self.message, "value": value,
            "threshold": self.threshold, "action": self.action,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a rule finds in one step."""

    bad: bool
    value: float
    threshold: float


Judge = Callable[[GuardConfig, Metrics, Metrics], _Judged | None]
"""Settings, a step's metrics and the means of the first steps (none before these are over); None: nothing to judge."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """`said` has the places {value} and {threshold}; `look`: where the cause is usually found."""

    name: str
    judge: Judge
    said: str
    look: str


def _known(metrics: Metrics, name: str) -> float | None:
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def _searched(metrics: Metrics, name: str) -> float | None:
    """The share searched of some tagged posts; of all, where no post of the step has a tag that decides."""
    tagged = "search/on_unknown" in metrics or "search/on_known" in metrics
    return _known(metrics, name if tagged else "search/episodes")


def _search_died(settings: GuardConfig, metrics: Metrics, first: Metrics) -> _Judged | None:
    value, threshold = _searched(metrics, "search/on_unknown"), settings.search_low
    return _Judged(value <= threshold, value, threshold) if value is not None and threshold else None


def _search_always(settings: GuardConfig, metrics: Metrics, first: Metrics) -> _Judged | None:
    value, threshold = _searched(metrics, "search/on_known"), settings.search_high
    return _Judged(value >= threshold, value, threshold) if value is not None and threshold else None


def _no_signal(settings: GuardConfig, metrics: Metrics, first: Metrics) -> _Judged | None:
    kept, flat = _known(metrics, "rollout/groups"), _known(metrics, "rollout/zero_signal_groups")
    if kept is None or flat is None or not kept + flat or not settings.no_signal:
        return None
    share = flat / (kept + flat)
    return _Judged(share >= settings.no_signal, share, settings.no_signal)


def _above(name: str, threshold_of: Callable[[GuardConfig], float]) -> Judge:
    def judge(settings: GuardConfig, metrics: Metrics, first: Metrics) -> _Judged | None:
        value, threshold = _known(metrics, name), threshold_of(settings)
        return _Judged(value > threshold, value, threshold) if value is not None and threshold else None

    return judge


def _fallen(name: str, low_of: Callable[[GuardConfig], float], fall_of: Callable[[GuardConfig], float]) -> Judge:
    """Below a floor, or so many times lower than in the first steps: whichever bound is higher."""

    def judge(settings: GuardConfig, metrics: Metrics, first: Metrics) -> _Judged | None:
        value, fall = _known(metrics, name), fall_of(settings)
        if value is None:
            return None
        threshold = max(low_of(settings), first[name] / fall if fall and name in first else 0.0)
        return _Judged(value < threshold, value, threshold)

    return judge


def _length(settings: GuardConfig, metrics: Metrics, first: Metrics) -> _Judged | None:
    value, change = _known(metrics, LENGTH), settings.length_change
    if value is None or not change or LENGTH not in first:
        return None
    most, least = first[LENGTH] * change, first[LENGTH] / change
    return _Judged(not least <= value <= most, value, most if value > first[LENGTH] else least)


_RULES = (
    _Rule(
        "search_died", _search_died,
        "{value:.1%} of the episodes that a search could help searched (at most {threshold:.1%}: guard.search_low)",
        "what a search costs (reward.search_weight), search/failed and search/no_result, and the difficulty tags",
    ),
    _Rule(
        "search_always", _search_always,
        "{value:.1%} of the episodes that need no search searched (at least {threshold:.1%}: guard.search_high)",
        "what a search costs (reward.search_weight, reward.gamma) and whether known posts are trained on "
        "(data.difficulty)",
    ),
    _Rule(
        "no_signal", _no_signal,
        "{value:.1%} of the groups earned the same for every member (at least {threshold:.1%}: guard.no_signal)",
        "reward/total: at its top the posts are too easy, at its bottom too hard or scored wrongly; and at "
        "rollout.temperature",
    ),
    _Rule(
        "entropy", _fallen(ENTROPY, lambda s: s.entropy_low, lambda s: s.entropy_fall),
        "the entropy is {value:.4f} nats a token (below {threshold:.4f}: guard.entropy_low, guard.entropy_fall)",
        "learner.lr, algorithm.clip_high and algorithm.kl_coef; samples of a group grow alike",
    ),
    _Rule(
        "mismatch", _above("train/mismatch_mean", lambda s: s.mismatch_high),
        "learner and engine differ by {value:.4g} nats a token (above {threshold:g}: guard.mismatch_high)",
        "rollout.dtype against model.dtype, rollout.temperature, and whether the last publish reached every engine",
    ),
    _Rule(
        "kl", _above("train/kl", lambda s: s.kl_high),
        "the KL to the cold-start policy is {value:.4g} nats a token (above {threshold:g}: guard.kl_high)",
        "learner.lr, algorithm.kl_coef and train/grad_norm of the steps before",
    ),
    _Rule(
        "answers", _fallen(ANSWERS, lambda s: s.answers_low, lambda s: s.answers_fall),
        "{value:.1%} of the episodes ended with a valid answer (below {threshold:.1%}: guard.answers_low, "
        "guard.answers_fall)",
        "rollout/stop_malformed and rollout/stop_truncated, and the step's rows in trajectories.jsonl",
    ),
    _Rule(
        "length", _length,
        "an episode samples {value:.1f} tokens (passed {threshold:.1f}: guard.length_change)",
        "rollout/stop_truncated and the step's rows in trajectories.jsonl for repetition or empty reasoning",
    ),
    _Rule(
        "failed_searches", _above("search/failed", lambda s: s.failed_high),
        "{value:.1%} of the queries failed (above {threshold:.1%}: guard.failed_high)",
        "the reasons in trajectories.jsonl, the provider's limits and budget, and the network",
    ),
)  # fmt: skip
NOT_FINITE = "not_finite"
NAMES = (NOT_FINITE, *(rule.name for rule in _RULES))
"""Every alert's name."""


class CollapseGuard:
    """Watches the metrics of the steps, one by one; its state is the trainer's to keep."""

    def __init__(self, settings: GuardConfig) -> None:
        self._settings = settings
        self._rows: dict[str, int] = {}  # steps in a row that broke a rule
        self._first: dict[str, list[float]] = {name: [] for name in _COMPARED}
        self.lasting = 0
        """Rules that are broken since `patience` steps or more, said before or now."""

    def check(self, step: int, metrics: Metrics) -> list[Alert]:
        """What there is to say of a step, at most once a rule; nothing with action=off."""
        settings = self._settings
        if settings.action == "off":
            return []
        alerts = self._not_finite(step, metrics)
        first = {name: sum(v) / len(v) for name, v in self._first.items() if len(v) >= settings.first_steps}
        self.lasting = len(alerts)
        for rule in _RULES:
            judged = rule.judge(settings, metrics, first)
            if judged is not None:
                self._rows[rule.name] = self._rows.get(rule.name, 0) + 1 if judged.bad else 0
                if self._rows[rule.name] == settings.patience:
                    alerts.append(self._alert(step, rule, judged))
            self.lasting += self._rows.get(rule.name, 0) >= settings.patience
        if settings.action == "stop":
            for alert in alerts:  # a run that is gone on with after a stop is given its patience anew
                self._rows[alert.name] = 0
        for name, values in self._first.items():
            value = _known(metrics, name)
            if value is not None and len(values) < settings.first_steps:
                values.append(value)
        return alerts

    def broke(self, step: int, error: FloatingPointError) -> list[Alert]:
        """What there is to say of a step that found a number that is not finite before it had any metrics."""
        if self._settings.action == "off" or not self._settings.not_finite:
            return []
        return [Alert(step, NOT_FINITE, f"the update broke on a number that is not finite: {error}", math.nan, 0.0,
                      self._settings.action)]  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Rows of bad steps and the first steps' values."""
        return {"rows": dict(self._rows), "first": {name: list(values) for name, values in self._first.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._rows = {name: int(count) for name, count in state["rows"].items()}
        self._first = {name: [float(value) for value in state["first"].get(name, ())] for name in _COMPARED}

    def _alert(self, step: int, rule: _Rule, judged: _Judged) -> Alert:
        said = rule.said.format(value=judged.value, threshold=judged.threshold)
        row = f", {self._settings.patience} steps in a row" if self._settings.patience > 1 else ""
        message = f"{said}{row}; look at {rule.look}"
        return Alert(step, rule.name, message, judged.value, judged.threshold, self._settings.action)

    def _not_finite(self, step: int, metrics: Metrics) -> list[Alert]:
        wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
        if not wrong or not self._settings.not_finite:
            return []
        message = (
            f"{', '.join(f'{name}={metrics[name]}' for name in wrong)} in place of a finite number (guard.not_finite); "
            "look at the step's trajectories, train/mismatch_max and learner.lr"
        )
        return [Alert(step, NOT_FINITE, message, metrics[wrong[0]], 0.0, self._settings.action)]
