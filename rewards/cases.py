"""Saved rollouts to score: `{responses, gold, config}` from a file, checked before anything is scored.

For a run's own `trajectories.jsonl` see `rewards.rows`. Knows nothing of what a score is. Always holds: a case that
is returned has text turns, gold rows of text, type and a box of none or four numbers, and a rule with every setting
in range; unknown fields are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewards.composite import PaperRule, ReleaseRule, Rule, Sizes
from rewards.entities import Gold
from rewards.fields import kind_of, known, list_at, object_at, text_at
from rewards.parsing import read_quad
from sake_ray.data.problems import FieldError
from sake_ray.types import Reward

PRESETS = ("paper", "release")
MAX_RESPONSES = 64
MAX_GOLD = 256

_CASE_FIELDS = ("responses", "gold", "config")
# "expected" is what golden files carry beside a case, "id" whatever a user calls it.
_IGNORED = ("expected", "id")
_SHARED_SETTINGS = ("reward_mode", "format_penalty", "iou_threshold", "lambda_1", "lambda_2", "lambda_3")
_SETTINGS = {
    # A file written for the release is scored by the paper's rule as it is: its flag has no meaning there.
    "paper": (*_SHARED_SETTINGS, "use_search_count_penalty", "image_size_info", "search_weight", "gamma"),
    "release": (*_SHARED_SETTINGS, "use_search_count_penalty", "image_size_info"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One rollout: its turns, gold rows (one per box), the rule to score it by, and the picture's sizes."""

    responses: tuple[str, ...]
    gold: tuple[Gold, ...]
    rule: Rule
    sizes: Sizes | None

    def score(self) -> Reward:
        """The case's reward.

        Raises:
            ValueError: the rule refuses its number of turns.
        """
        return self.rule.score_responses(self.responses, self.gold, self.sizes)


def read_case(value: object, preset: str) -> Case:
    """A case from parsed JSON.

    Raises:
        FieldError: a field is missing, unknown, of the wrong type or out of range.
    """
    row = object_at(value, "case")
    known(row, (*_CASE_FIELDS, *_IGNORED), "")
    for name in _CASE_FIELDS[:2]:
        if name not in row:
            raise FieldError(name, "is missing")
    config = object_at(row.get("config", {}), "config")
    known(config, _SETTINGS[preset], "config.")
    responses = list_at(row["responses"], "responses", MAX_RESPONSES)
    for index, text in enumerate(responses):
        text_at(text, f"responses[{index}]")
    if not responses:
        raise FieldError("responses", "is empty; an episode has at least one turn")
    gold = [_gold(item, f"gold[{index}]") for index, item in enumerate(list_at(row["gold"], "gold", MAX_GOLD))]
    return Case(tuple(responses), tuple(gold), _rule(config, preset), _sizes(config))


def _gold(value: object, where: str) -> Gold:
    row = object_at(value, where)
    text, kind = (text_at(row.get(name), f"{where}.{name}") for name in ("entity", "type"))
    box = row.get("bbox")
    if not isinstance(box, list):
        raise FieldError(f"{where}.bbox", f"must be a list, empty or of four numbers, not {kind_of(box)}")
    quad = read_quad(box)
    if box and quad is None:
        raise FieldError(f"{where}.bbox", f"must be empty or four numbers, not {box!r:.60}")
    return Gold(text, kind, () if quad is None else (quad,))


def _rule(config: Mapping[str, Any], preset: str) -> Rule:
    mode = config.get("reward_mode", "EM")
    if mode not in ("EM", "MultiEM"):
        raise FieldError("config.reward_mode", f"must be EM or MultiEM, not {mode!r:.60}")
    flag = config.get("use_search_count_penalty", False)
    if not isinstance(flag, bool):
        raise FieldError("config.use_search_count_penalty", f"must be true or false, not {kind_of(flag)}")
    mix = (
        _number(config, "lambda_1", 0.25, 1.0),
        _number(config, "lambda_2", 0.25, 1.0),
        _number(config, "lambda_3", 0.5, 1.0),
    )
    format_penalty = _number(config, "format_penalty", 0.1, 1.0)
    threshold = _number(config, "iou_threshold", 0.5, 1.0)
    if preset == "release":
        return ReleaseRule(mode, format_penalty, flag, threshold, mix)
    paper = PaperRule()
    return PaperRule(
        mode=mode,
        f1_weight=1 - format_penalty,
        format_weight=format_penalty,
        search_weight=_number(config, "search_weight", paper.search_weight, math.inf),
        gamma=_number(config, "gamma", paper.gamma, 1.0),
        iou_threshold=threshold,
        mix=mix,
    )


def _sizes(config: Mapping[str, Any]) -> Sizes | None:
    """The sizes of the first picture, which is the post's; later ones are search results."""
    infos = config.get("image_size_info")
    if infos is None:
        return None
    where = "config.image_size_info"
    if not list_at(infos, where, MAX_RESPONSES * 64):
        raise FieldError(where, "is empty; leave it out when boxes are in original pixels")
    info = object_at(infos[0], f"{where}[0]")
    pair = [_size(info.get(name), f"{where}[0].{name}") for name in ("processed_size", "original_size")]
    return Sizes(*pair)


def _size(value: object, where: str) -> tuple[int, int]:
    sides = value if isinstance(value, list) else []
    whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool) and 0 < side <= 1_000_000]
    if len(sides) != 2 or len(whole) != 2:
        raise FieldError(where, f"must be [width, height] in whole pixels, not {value!r:.60}")
    return whole[0], whole[1]


def _number(config: Mapping[str, Any], name: str, default: float, high: float) -> float:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high or value == math.inf:
        upper = "" if high == math.inf else f" to {high:g}"
        raise FieldError(f"config.{name}", f"must be a number from 0{upper}, not {value!r:.60}")
    return float(value)
