"""How a policy searched, whether it searched where the base model did not know, and what an answer cost.

Knows nothing of files. Always holds: a search is a search turn that was answered; rates are shares from 0 to 1, None
where there is nothing to share; a post needs a search when one of its entities is *unknown*, and needs none when all
are *known* (`ambiguous` ones alone leave it open).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rewards.evaluation.records import PostRecord
from rewards.evaluation.scored import Scored
from rewards.evaluation.slices import hardest

_KINDS = ("text", "image")
_BINS = 10


def search_report(scored: Scored) -> dict[str, Any]:
    """The rates of method's search behaviour; empty where no record has turns."""
    found = [at for at, record in enumerate(scored.records) if record.turns]
    if not found:
        return {"episodes": 0}
    episodes = [scored.records[at] for at in found]
    counts = [record.searches for record in episodes]
    by_kind = {kind: [_searches(record, kind) for record in episodes] for kind in _KINDS}
    tags = [hardest(record) for record in episodes]
    queries = [search for record in episodes for turn in record.turns for search in turn.searches]
    statuses = Counter(search.status for search in queries)
    return {
        "episodes": len(episodes),
        "searches": sum(counts),
        "per_episode": _mean(counts),
        "share_with_any": _share(counts),
        "queries": len(queries),
        "by_kind": {
            kind: {"searches": sum(each), "per_episode": _mean(each), "share_with_any": _share(each)}
            for kind, each in by_kind.items()
        },
        "statuses": dict(sorted(statuses.items())),
        "failures": dict(sorted(Counter(search.reason for search in queries if search.reason).items())),
        "unnecessary": _unnecessary(tags, counts, by_kind),
        "missed": _missed(scored, found, tags, counts),
        "endings": dict(sorted(Counter(record.stop_reason for record in episodes).items())),
    }


def calibration_report(scored: Scored) -> dict[str, Any]:
    """Whether the policy searches where it should: as a classifier of posts, by difficulty, and over hit / n."""
    found = [at for at, record in enumerate(scored.records) if record.turns]
    records = [scored.records[at] for at in found]
    tags = [hardest(record) for record in records]
    if not any(tags):
        return {"posts": 0}
    searched = [record.searches > 0 for record in records]
    told = [(tag == "unknown", did) for tag, did in zip(tags, searched, strict=True) if tag in ("unknown", "known")]
    right = sum(need and did for need, did in told)
    asked, needed = sum(did for _, did in told), sum(need for need, _ in told)
    precision, recall = _over(right, asked), _over(right, needed)
    f1 = None if precision is None or recall is None else _over(2 * precision * recall, precision + recall) or 0.0
    return {
        "posts": len(told),
        "need_search": needed,
        "searched": asked,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "by_difficulty": {tag: _searching(records, tags, tag) for tag in ("known", "ambiguous", "unknown")},
        "curve": _curve(scored, found),
    }


def cost_report(records: Sequence[PostRecord]) -> dict[str, Any]:
    """Mean, median, 95th percentile and sum a post of what answering took; empty where nothing ran."""
    ran = [record for record in records if record.turns or record.tokens or record.seconds is not None]
    if not ran:
        return {}
    parts: dict[str, Callable[[PostRecord], float | None]] = {
        "searches": lambda record: record.searches,
        "queries": lambda record: sum(len(turn.searches) for turn in record.turns),
        "turns": lambda record: len(record.turns),
        "tokens": lambda record: record.tokens,
        "sampled_tokens": lambda record: record.sampled_tokens,
        "seconds": lambda record: record.seconds,
    }
    return {name: _spread([value for one in ran if (value := read(one)) is not None]) for name, read in parts.items()}


def _searches(record: PostRecord, kind: str) -> int:
    return sum(bool(turn.searches) and turn.searches[0].kind == kind for turn in record.turns)


def _unnecessary(tags: Sequence[str | None], counts: Sequence[int], by_kind: dict[str, list[int]]) -> dict[str, Any]:
    """Searches on posts whose entities are all known."""
    known = [at for at, tag in enumerate(tags) if tag == "known"]
    return {
        "posts": len(known),
        "searches": sum(counts[at] for at in known),
        "share_of_posts": _share([counts[at] for at in known]),
        "share_of_searches": _over(sum(counts[at] for at in known), sum(counts)),
        **{kind: sum(each[at] for at in known) for kind, each in by_kind.items()},
    }


def _missed(scored: Scored, found: Sequence[int], tags: Sequence[str | None], counts: Sequence[int]) -> dict[str, Any]:
    """Posts with an unknown entity that was answered wrongly (strict GMNER) without any search."""
    unknown = [at for at, tag in enumerate(tags) if tag == "unknown"]
    wrong = 0
    for at in unknown:
        right = set(scored.pairs[found[at]].gmner)
        entities = scored.records[found[at]].gold
        mistaken = any(e.difficulty == "unknown" and index not in right for index, e in enumerate(entities))
        wrong += mistaken and not counts[at]
    return {
        "posts": len(unknown),
        "without_search": sum(not counts[at] for at in unknown),
        "missed": wrong,
        "share_of_posts": _over(wrong, len(unknown)),
    }


def _searching(records: Sequence[PostRecord], tags: Sequence[str | None], tag: str) -> dict[str, Any]:
    counts = [record.searches for record, one in zip(records, tags, strict=True) if one == tag]
    return {"posts": len(counts), "share_with_any": _share(counts), "per_episode": _mean(counts)}


def _curve(scored: Scored, found: Sequence[int]) -> list[dict[str, Any]]:
    """Over the share of samples without tools that had a post's hardest entity right: how often it was searched for.

    A point a share, or a tenth where there are many; `right` is the share of posts answered whole (strict GMNER).
    """
    points: list[tuple[float, bool, bool]] = []
    for at in found:
        record, right = scored.records[at], scored.pairs[at].gmner
        rates = [e.hits / e.samples for e in record.gold if e.hits is not None and e.samples]
        if rates and len(rates) == len(record.gold):
            whole = len(right) == len(record.gold) and min(right, default=0) >= 0
            points.append((min(rates), record.searches > 0, whole))
    shares = {rate for rate, _, _ in points}
    groups: dict[float, list[tuple[float, bool, bool]]] = {}
    for point in points:
        place = point[0] if len(shares) <= _BINS + 1 else round(point[0] * _BINS) / _BINS
        groups.setdefault(place, []).append(point)
    return [
        {
            "hit_rate": place,
            "posts": len(group),
            "share_searched": _mean([did for _, did, _ in group]),
            "right": _mean([whole for _, _, whole in group]),
        }
        for place, group in sorted(groups.items())
    ]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(counts: Sequence[int]) -> float | None:
    return _mean([count > 0 for count in counts])


def _over(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    return {
        "mean": _mean(ordered),
        "p50": _quantile(ordered, 0.5),
        "p95": _quantile(ordered, 0.95),
        "sum": sum(ordered),
    }


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """Between the two nearest values, in proportion."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
