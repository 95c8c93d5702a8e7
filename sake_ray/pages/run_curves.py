"""Which of a run's metrics are drawn together, and in which order.

Knows nothing of files. Always holds: a metric that no plot names is in the last section, so nothing that was measured
is hidden; what was not measured leaves no empty plot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sake_ray.pages.charts import line_chart
from sake_ray.pages.markup import Html

Metrics = Mapping[str, float]
Event = tuple[float, str]

_SHARE = (0.0, 1.0)
# (section, title) → plots of (title, metrics, range of y).
_GROUPS: dict[tuple[str, str], list[tuple[str, tuple[str, ...], tuple[float, float] | None]]] = {
    ("reward", "Scores"): [
        ("Reward of training groups", ("reward/total", "reward/f1", "reward/format"), _SHARE),
        ("Parts of the score", ("reward/mner_f1", "reward/eeg_f1", "reward/gmner_f1"), _SHARE),
        ("What searching cost", ("reward/retrieval_penalty",), None),
        ("Held-out F1 (strict)", ("eval/gmner_f1", "eval/mner_f1", "eval/eeg_f1"), _SHARE),
        ("Held-out GMNER F1 by what is known",
         ("eval/gmner_f1", "eval/gmner_f1_unseen", "eval/gmner_f1_known"), _SHARE),
        ("Held-out answers that can be read", ("eval/answered",), _SHARE),
    ],
    ("search", "Search"): [
        ("Share of training episodes searched", ("search/on_unknown", "search/on_known", "search/episodes"), _SHARE),
        ("Share of held-out posts searched",
         ("eval/search_on_unknown", "eval/search_on_known", "eval/search_episodes"), _SHARE),
        ("By kind", ("search/text", "search/image"), _SHARE),
        ("Searches an episode", ("search/per_episode",), None),
        ("Searches without an answer", ("search/no_result", "search/failed"), _SHARE),
        ("Answered from the cache", ("search/pool_hit_rate",), _SHARE),
        ("Seconds a search took", ("search/latency_s", "search/pool_latency_p50_s", "search/pool_latency_p95_s"), None),
        ("Searches of the pool", ("search/pool_searches", "search/pool_requests", "search/pool_misses"), None),
        ("What went wrong in the pool",
         ("search/pool_retries", "search/pool_turned_away", "search/pool_not_recorded"), None),
        ("Cost of searches", ("search/pool_cost",), None),
    ],
    ("episodes", "Episodes"): [
        ("How episodes end", ("rollout/stop_answer", "rollout/stop_malformed", "rollout/stop_search_limit",
                              "rollout/stop_turn_limit", "rollout/stop_truncated", "rollout/stop_deadline"), _SHARE),
        ("Tokens an episode", ("rollout/tokens", "rollout/sampled_tokens"), None),
        ("Turns an episode", ("rollout/turns",), None),
        ("Groups with and without a signal", ("rollout/groups", "rollout/zero_signal_groups"), None),
        ("Sampled tokens a second", ("rollout/tokens_per_s",), None),
        ("Prefix cache hit rate", ("rollout/prefix_hit_rate",), _SHARE),
        ("Staleness", ("rollout/staleness",), None),
    ],
    ("training", "Training"): [
        ("Entropy", ("train/entropy",), None),
        ("KL to the cold start", ("train/kl",), None),
        ("Share of clipped tokens", ("train/clip_fraction", "train/is_capped"), None),
        ("Log-prob mismatch, engine and learner", ("train/mismatch_mean", "train/mismatch_max"), None),
        ("Loss", ("train/loss",), None),
        ("Gradient norm", ("train/grad_norm",), None),
        ("Learning rate", ("train/lr",), None),
        ("Importance weight", ("train/is_weight",), None),
        ("Tokens a second", ("train/tokens_per_s",), None),
    ],
}  # fmt: skip
_SHORT_OF = ("eval/", "reward/", "search/", "rollout/", "train/", "time/")


def curve_groups(rows: Sequence[Metrics], events: Sequence[Event]) -> list[tuple[str, str, list[Html]]]:
    """Sections as (id, title, plots), with `events` marked in each plot."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step":
                lines.setdefault(name, []).append((row.get("step", 0.0), value))
    used: set[str] = set()
    sections = []
    for (id_, title), plots in _GROUPS.items():
        figures = []
        for name, keys, y_range in plots:
            found = {short(key): lines[key] for key in keys if key in lines}
            used.update(keys)
            figures.append(line_chart(name, found, y_range=y_range, events=events))
        sections.append((id_, title, figures))
    rest = [
        line_chart(name, {short(name): points}, events=events)
        for name, points in sorted(lines.items())
        if name not in used and not name.startswith("time/") and any(value for _, value in points)
    ]
    sections.append(("more", "More", rest))
    return sections


def short(name: str) -> str:
    """A metric's name without its group."""
    group, _, rest = name.partition("/")
    return rest.replace("_", " ") if f"{group}/" in _SHORT_OF else name
